import pandas as pd
import pytest

from meft_runner.reports.labels import backbone_label, in_method_order, layer_count, method_label, task_label
from tests.helpers.records import record


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["method=meft1"], "meft1"),
        (["method=meft3", "method.reversal=float"], "meft3 (reversal=float)"),
        (["method=meft1", "method.scale_1=1/100"], "meft1 (scale_1=1/100)"),
        (["method=lora", "method.checkpointing=true"], "lora (checkpointing=True)"),
        (["method=ia3", "training.learning_rate=1"], "ia3"),
        (["method=meft1", "method.chunks=4", "method.adapter_dim=16"], "meft1 (adapter_dim=16, chunks=4)"),
    ],
)
def test_labels_name_what_differs_from_the_defaults(overrides, label):
    assert method_label(record(0.5, *overrides)) == label


def test_a_label_without_what_an_axis_says():
    made = record(0.5, "method=meft1", "method.frozen_layers=2", "method.chunks=4")
    assert method_label(made, without=("frozen_layers",)) == "meft1 (chunks=4)"


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["task=cola"], "cola"),
        (["task=demo"], "demo (synthetic)"),
        (["task=cola", "task.max_train_rows=2000"], "cola (2000 rows)"),
        (["task=cola", "task.max_train_rows=2", "task.max_eval_rows=1"], "cola (2 rows, 1 development rows)"),
    ],
)
def test_a_task_whose_rows_are_made_up_or_not_all(overrides, label):
    assert task_label(record(0.5, *overrides)) == label


@pytest.mark.parametrize(
    ("overrides", "label", "layers"),
    [
        (["backbone=minilm"], "minilm", 6),
        (["backbone=minilm", "backbone.repeat=4"], "minilm (repeat=4)", 24),
        (["backbone=bart"], "bart", 24),
    ],
)
def test_stacked_backbones(overrides, label, layers):
    made = record(0.5, *overrides)
    assert (backbone_label(made), layer_count(made)) == (label, layers)


def test_the_depth_of_a_record_that_does_not_say():
    made = record()
    made.config.backbone.config = {}
    assert layer_count(made) is None


def test_methods_in_order():
    table = pd.DataFrame({"backbone": ["b", "a", "a", "a"], "method": ["full", "meft1", "lora (rank=2)", "full"]})
    assert in_method_order(table)["method"].tolist() == ["full", "lora (rank=2)", "meft1", "full"]
