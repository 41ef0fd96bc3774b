"""Settings as the command line composes them."""

import os
from copy import deepcopy
from functools import cache

from meft_runner import config
from meft_runner.run.composing import composed
from tests.helpers.folders import make_model_folder


def settings(*overrides) -> config.Settings:
    """Returns checked settings of what would be typed; the same again are composed once, which takes a while."""
    return deepcopy(_composed(overrides, os.getcwd(), os.environ.get("WORLD_SIZE")))


@cache
def _composed(overrides, folder, processes):
    return composed(overrides)


SMALL = ("training.epochs=1", "training.batch_size=8", "task.max_length=24", "training.eval_batch_size=32")


def small(rte_folder, tmp_path, *overrides):
    """Returns the settings of a short run of minilm on a folder of RTE's form."""
    return settings("task=rte", f"task.data_dir={rte_folder}", f"output_dir={tmp_path / 'runs'}", *SMALL, *overrides)


def tiny(rte_folder, tmp_path, *overrides):
    """Returns the settings of a short run of a tiny RoBERTa with random weights, made beside the rows."""
    model = rte_folder.parent / "model"
    if not model.is_dir():
        make_model_folder(model, "roberta")
    return small(rte_folder, tmp_path, "backbone=roberta", f"backbone.path={model}", *overrides)
