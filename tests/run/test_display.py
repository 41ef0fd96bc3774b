"""What a run prints: what it will do, a row an epoch, and nothing of what libraries say."""

import io
import logging
import math
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
from transformers import TrainerControl, TrainerState

from meft_runner.run import display, lifecycle, opening, processes
from meft_runner.run.callbacks import LossWatch
from meft_runner.run.folder import run_directory
from meft_runner.run.quiet import quiet
from tests.helpers.composed import tiny


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Rate:
    def get_last_lr(self):
        return [1e-4]


def show(screen, splits=("validation",), entries=()):
    """Trains ten steps of nothing, with these entries of the Trainer's log after the last one."""
    state, watch = TrainerState(max_steps=10, epoch=2.0), LossWatch(1e-3, "fp32")
    watch.latest = 0.25
    with screen.training(list(splits), 2, watch) as shown:
        shown.on_train_begin(None, state, TrainerControl())
        for step in range(1, 11):
            state.global_step = step
            shown.on_step_end(None, state, TrainerControl(), lr_scheduler=Rate())
        shown.on_prediction_step(None, state, TrainerControl())
        for entry in entries:
            shown.on_log(None, state, TrainerControl(), logs=entry)


EPOCH = ({"loss": 0.5}, {"eval_validation_loss": 0.75, "eval_validation_accuracy": 0.875, "eval_validation_runtime": 1})


def test_a_terminal_shows_a_bar_with_loss_and_learning_rate(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    show(display.Screen("a run"), entries=EPOCH)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue())
    assert "loss 0.25  learning rate 1.00e-04" in text
    assert "10/10" in text
    assert "epoch 2/2  step 10  training loss 0.5  loss 0.75  accuracy 87.5" in text


def test_no_terminal_gets_a_line_an_epoch(capsys):
    show(display.Screen("a run"), entries=EPOCH)
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"  epoch 2/2  step 10  training loss 0.5  loss 0.75  accuracy 87.5  \(\d+ s\)", line)


def test_a_row_waits_for_the_last_split_and_has_dashes_for_scores_that_are_not_defined(capsys):
    entries = (
        {"loss": 0.5},
        {"eval_validation_loss": 0.75, "eval_validation_pearson": math.nan},
        {"eval_validation_late_loss": 1.0, "eval_validation_late_pearson": 0.5},
    )
    show(display.Screen("a run"), ("validation", "validation_late"), entries)
    (line,) = capsys.readouterr().out.splitlines()
    assert "training loss 0.5  loss 0.75  pearson -  loss_late 1  pearson_late 50.0" in line


def test_runs_side_by_side_say_which_one_speaks(capsys, monkeypatch):
    monkeypatch.setattr(display, "current_process", lambda: type("Process", (), {"name": "LokyProcess-1"}))
    screen = display.Screen("bert-rte-s1")
    screen.heading("bert on rte")
    show(screen, entries=EPOCH)
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == ["bert-rte-s1"] * 2


def test_only_the_main_process_speaks(capsys, monkeypatch):
    monkeypatch.setattr(processes, "is_main", lambda: False)
    screen = display.Screen("a run")
    screen.heading("bert on rte")
    show(screen, entries=EPOCH)
    assert capsys.readouterr().out == ""


def test_names_with_brackets_are_printed_as_they_are(capsys):
    display.Screen("a run").line("folder", "runs[bold]/x" + "y" * 300)
    assert capsys.readouterr().out == "  folder     runs[bold]/x" + "y" * 300 + "\n"


def test_a_run_opens_with_what_it_will_do(rte_folder, tmp_path, capfd):
    chosen = tiny(rte_folder, tmp_path, "training.batch_size=30", "training.epochs=7", "training.max_steps=3")
    capfd.readouterr()
    lifecycle.run(chosen)
    printed, errors = capfd.readouterr()
    labels = [line.split()[0] for line in printed.splitlines()]
    notes_of_rows = ["note"] * 2  # texts by bytes are long
    after = ["steps", "training", "note", "model", "memory", "epoch", "epoch"]
    assert labels == ["roberta", "folder", "rows", *notes_of_rows, *after]
    for text in (
        "roberta on rte with meft1, seed 1\n", f"{run_directory(chosen)}\n", "40 to train on, 20 of validation to",
        "classes entailment, not_entailment\n", "3, 2 an epoch, of 30 rows of about one length\n",
        "learning rate 0.001, 1 step of warm-up, fp32; no early stop\n", "8,674 (8.39 %) train, on cpu\n",
        "at the peak (measured, batch 30 x length 24)\n", "40 of 40 rows of train cut to task.max_length=24 tokens\n",
    ):  # fmt: skip
        assert text in printed
    assert all("training rows too" in line for line in errors.splitlines())


def test_what_waits_on_the_host_is_told_before_the_run_and_recorded(rte_folder, tmp_path, capsys):
    chosen = tiny(rte_folder, tmp_path, "method=meft3", "method.offload=true", "study=start", "training.batch_size=8")
    found = lifecycle.run(chosen)
    packed = 2 * 8 * 24 * 64  # layers, rows, tokens, width: half a byte in both halves
    assert found.memory.host_bytes == packed
    assert "0.0 MiB wait there from forward to backward; a CPU computes in the same" in capsys.readouterr().out


def test_a_score_that_is_never_defined_is_said_and_the_last_weights_are_kept(rte_folder, tmp_path, capsys, monkeypatch):
    def without_score(*args):
        data = load(*args)
        splits = {
            name: replace(split, score=lambda _: {"accuracy": math.nan}) for name, split in data.evaluation.items()
        }
        return replace(data, evaluation=splits)

    load = opening.load_task
    monkeypatch.setattr(opening, "load_task", without_score)
    chosen = tiny(rte_folder, tmp_path, "training.epochs=4", "training.patience=2", "training.batch_size=40")
    found = lifecycle.run(chosen)
    assert (found.scores.best, found.scores.final) == (None, None)
    assert [epoch.metrics["accuracy"] for epoch in found.scores.history] == [None] * 3  # stopped early
    assert "accuracy was not defined after any epoch: the weights of the last one are kept" in capsys.readouterr().out
    assert (run_directory(chosen) / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("verbose", [False, True])
def test_libraries_are_quiet_unless_asked(verbose, caplog, monkeypatch):
    monkeypatch.setenv("MEFT_VERBOSE", "1" if verbose else "0")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("of a library", stacklevel=1)
            logging.getLogger("peft").warning("of peft")
            logging.getLogger("meft_runner.run").warning("ours")
        logging.getLogger("peft").warning("afterwards")
    assert [str(warning.message) for warning in caught] == (["of a library"] if verbose else [])
    assert [entry.getMessage() for entry in caplog.records] == [*(["of peft"] if verbose else []), "ours", "afterwards"]


@pytest.mark.slow
@pytest.mark.parametrize("verbose", [False, True])
def test_v_brings_back_what_libraries_say(verbose, rte_folder, tmp_path):
    chosen = tiny(rte_folder, tmp_path)
    command = [
        sys.executable, "-m", "meft_runner", "backbone=roberta", f"backbone.path={chosen.backbone.path}", "task=rte",
        f"task.data_dir={rte_folder}", f"output_dir={tmp_path}", "task.max_length=24", "training.max_steps=1",
    ]  # fmt: skip
    ended = subprocess.run([*command, *(["-v"] if verbose else [])], capture_output=True, text=True, check=True)
    assert ("Loading weights" in ended.stderr) == verbose
    assert "{" not in ended.stdout
