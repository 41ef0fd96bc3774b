"""What a run reads of the hub, in this process."""

import huggingface_hub

from meft_runner.backbones.hub import commit_of
from meft_runner.backbones.hub_line import line
from meft_runner.backbones.loading import load_model
from meft_runner.backbones.sources import find_source
from meft_runner.config import BackboneSettings, Head
from meft_runner.tasks.rows import load_hub_split
from tests.helpers.glue_rows import task as glue_task


def backbone(**kwargs):
    """Returns settings of a RoBERTa that is read from the hub."""
    usual = {"name": "roberta", "model_types": ["roberta"], "hub": "FacebookAI/roberta-large"}
    return BackboneSettings(**usual | kwargs)


def read_model(**kwargs):
    """Loads the model of such settings."""
    settings = backbone(**kwargs)
    return load_model(settings, find_source(settings), Head.classification, 2)


def read_split(split="train", **kwargs):
    """Loads a split of RTE: its rows, and the commit that they are from."""
    return load_hub_split(glue_task(**kwargs), split, None)


def forget():
    """Makes the next question one of a new process."""
    commit_of.cache_clear()
    huggingface_hub.HfFileSystem.clear_instance_cache()
    line().restore()
