import pandas as pd
import pytest

from meft_runner.records.record import finish, new_record
from meft_runner.records.tables import (
    loss_table,
    memory_table,
    method_label,
    print_table,
    run_table,
    score_table,
    write_tables,
)
from meft_runner.settings import plain
from tests.test_settings import settings


def record(best, *overrides, activations=2**20):
    config = plain(settings("task=rte", *overrides))
    made = new_record("x", config, "cpu")
    memory = dict.fromkeys(
        ("parameters_bytes", "gradients_bytes", "optimizer_bytes", "peak_bytes", "activation_paper_bytes",
         "retained_after_forward_bytes"), 3 * 2**20,
    )  # fmt: skip
    made.update(
        data={"synthetic": config["task"]["name"] == "demo"},
        scores={"metric": "accuracy", "best": best, "final": best, "history": []},
        parameters={"total": 1000, "trainable": 10},
        memory={"source": "tracked", **memory, "activations_bytes": activations, "batch_size": 16, "length": 128},
        timing={"median_step_seconds": 0.5, "tokens_per_second": 100.0, "train_seconds": 5.0},
        reversal={"mode": "exact", "checked_steps": 3, "mismatches": 0, "max_error": 0.0},
    )
    finish(made, "complete")
    return made


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


def test_scores_are_averaged_over_seeds():
    table = score_table([record(0.6, "seed=1"), record(0.7, "seed=2")])
    assert table.to_dict("records") == [{"backbone": "minilm", "method": "meft1", "rte accuracy": "65.0 ± 7.1 (n=2)"}]


def test_the_best_settings_of_a_method_are_shown():
    table = score_table([record(0.6, "training.learning_rate=0.1"), record(0.7, "training.learning_rate=0.2")])
    assert table["rte accuracy"].tolist() == ["70.0"]


def test_methods_in_order_and_a_dash_for_what_was_not_run():
    records = [record(0.7, "method=meft1"), record(0.6, "method=full"), record(0.5, "method=ia3", "task=demo")]
    table = score_table(records)
    assert table["method"].tolist() == ["full", "ia3", "meft1"]
    assert table["rte accuracy"].tolist() == ["60.0", "-", "70.0"]
    assert table["demo (synthetic) accuracy"].tolist() == ["-", "50.0", "-"]


def test_memory_is_compared_with_full_fine_tuning():
    table = memory_table([record(0.7, activations=2**18), record(0.6, "method=full")])
    assert table["method"].tolist() == ["full", "meft1"]
    assert table["activations (MiB)"].tolist() == [1.0, 0.2]
    assert table["activations (% of full)"].tolist() == [100.0, 25.0]


def test_tasks_with_other_numbers_of_classes_share_a_row():
    two, three = record(0.6, "method=full"), record(0.6, "method=full", "task=mnli")
    three["parameters"]["trainable"] = 11
    table = memory_table([two, three, record(0.7)])
    assert table["method"].tolist() == ["full", "meft1"]


def test_memory_without_full_fine_tuning_has_no_percentage():
    assert pd.isna(memory_table([record(0.7)])["activations (% of full)"][0])


def test_markdown_and_csv_say_the_same(tmp_path):
    table = score_table([record(0.6)])
    files = write_tables({"scores": table}, tmp_path / "new")
    assert [file.name for file in files] == ["scores.md", "scores.csv"]
    assert "| minilm" in files[0].read_text()
    assert pd.read_csv(files[1], dtype=str).to_dict("records") == table.to_dict("records")


def test_the_printed_table_of_a_run(capsys):
    print_table(run_table(record(0.625)), title="a run")
    printed = capsys.readouterr().out
    assert "62.5" in printed
    assert "10 (1.00 % of 1,000)" in printed
    assert "exact: 0 mismatches in 3 steps" in printed


def test_training_losses_by_epoch():
    short, long, old = record(0.5, "method=meft1"), record(0.6, "method=full"), record(0.6, "method=lora")
    short["scores"]["history"] = [{"epoch": 1.0, "train_loss": 0.5}]
    long["scores"]["history"] = [{"epoch": 1.0, "train_loss": 0.7}, {"epoch": 2.0, "train_loss": 0.65}]
    old["scores"]["history"] = [{"epoch": 1.0}]  # an earlier version kept none
    table = loss_table([short, long, old])
    assert table["method"].tolist() == ["full", "lora", "meft1"]
    assert table["epoch 1"].tolist() == ["0.700", "-", "0.500"]
    assert table["epoch 2"].tolist() == ["0.650", "-", "-"]
