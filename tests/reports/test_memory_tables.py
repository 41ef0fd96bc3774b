import pandas as pd

from meft_runner.reports.memory_tables import brief, memory_table
from tests.helpers.records import MIB, record, study


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


def test_a_step_of_several_passes_is_compared_with_its_like():
    several = "training.gradient_accumulation=4"
    table = memory_table(
        [record(activations=MIB), record(0.5, several, activations=2 * MIB),
         record(0.5, "method=full", activations=2 * MIB), record(0.5, "method=full", several, activations=8 * MIB)]
    )  # fmt: skip
    shown = brief(table)[["method", "accumulation", "activations (MiB)", "activations (% of full)"]]
    assert shown.to_numpy().tolist() == [
        ["full", 1, 2, 100],
        ["full", 4, 8, 100],
        ["meft1", 1, 1, 50],
        ["meft1", 4, 2, 25],
    ]
    assert "head" not in table


def test_other_heads_have_rows_of_their_own():
    qwen = "backbone=qwen3_0b6"
    table = memory_table(
        [record(0.5, qwen, "method=lora", activations=MIB), record(0.5, qwen, "method=full", activations=2 * MIB),
         *(record(0.5, qwen, "method=lora", f"task={task}", activations=8 * MIB) for task in ("lm", "instruct"))]
    )  # fmt: skip
    shown = brief(table)[["method", "head", "activations (% of full)"]].astype(object)
    assert shown.where(shown.notna(), None).to_numpy().tolist() == [
        ["full", "classification", 100], ["lora", "classification", 50],
        ["lora", "lm", None], ["lora", "instruct", None],
    ]  # fmt: skip
    assert "accumulation" not in table


def test_a_head_that_settings_do_not_tell():
    made = record()
    made.config.task.__pydantic_extra__["of_another_program"] = 1
    assert memory_table([made, record()])["head"].tolist() == ["not known", "classification"]


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
