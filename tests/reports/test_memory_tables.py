import pandas as pd

from meft_runner.reports.memory_tables import brief, memory_table
from tests.helpers.records import record, study


def test_memory_is_compared_with_full_fine_tuning():
    table = memory_table([record(0.7, activations=2**18), record(0.6, "method=full")])
    assert table["method"].tolist() == ["full", "meft1"]
    assert table["activations (MiB)"].tolist() == [1.0, 0.2]
    assert table["activations (% of full)"].tolist() == [100.0, 25.0]


def test_tasks_with_other_numbers_of_classes_share_a_row():
    two, three = record(0.6, "method=full"), record(0.6, "method=full", "task=mnli")
    three.parameters.trainable = 11
    table = memory_table([two, three, record(0.7)])
    assert table["method"].tolist() == ["full", "meft1"]


def test_a_deeper_backbone_is_another():
    table = memory_table([record(0.6, "method=full"), record(0.6, "method=full", "backbone.repeat=2")])
    assert table["backbone"].tolist() == ["minilm", "minilm (repeat=2)"]


def test_memory_without_full_fine_tuning_has_no_percentage():
    assert pd.isna(memory_table([record(0.7)])["activations (% of full)"][0])


def test_studies_that_measured_memory_are_there_without_a_step_time():
    measured = record(0.7, timing=None, scores=None)
    table = memory_table([measured, study([0.1])])
    assert brief(table)["peak (MiB)"].tolist() == [3.0]
    assert pd.isna(table["median step (s)"][0])
    assert memory_table([study([0.1])]).empty
