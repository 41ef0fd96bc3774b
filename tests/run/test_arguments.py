"""What settings of training come to for the rows there are; a setting that comes to something else is said."""

import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.config import Head
from meft_runner.run import arguments
from meft_runner.run.arguments import plan, training_arguments
from meft_runner.tasks import EvalSplit, TaskData
from tests.helpers.composed import settings


def task(rows, scored=5, **columns):
    data = Dataset.from_dict({"labels": [0] * rows, **columns})
    split = EvalSplit(Dataset.from_dict({"labels": [0] * scored}), lambda answers: {})
    return TaskData(Head.classification, (), data, {"validation": split}, "accuracy", None, {})


@pytest.mark.parametrize(
    ("override", "attribute", "value", "note"),
    [
        ("batch_size=1000", "batch_size", 20, "training.batch_size=1000: cut to 20, the number of training rows"),
        ("eval_batch_size=999", "eval_batch_size", 5, "training.eval_batch_size=999: cut to 5, the number of rows"),
        ("gradient_accumulation=9", "gradient_accumulation", 2, "training.gradient_accumulation=9: cut to 2"),
        ("max_steps=1", "warmup_steps", 0, "training.warmup=0.06: left out, the learning rate of the only step"),
    ],
)
def test_what_is_cut_is_said_once(override, attribute, value, note):
    planned = plan(settings(f"training.{override}"), task(20))
    assert getattr(planned, attribute) == value
    assert [text for text in planned.notes if text.startswith(note)] == list(planned.notes)


def test_what_fits_is_as_it_was_asked_for():
    planned = plan(settings("training.batch_size=4", "training.gradient_accumulation=2", "training.epochs=3"), task(20))
    assert (planned.batch_size, planned.gradient_accumulation, planned.epoch_steps) == (4, 2, 3)
    assert (planned.steps, planned.epochs, planned.warmup_steps, planned.notes) == (9, 3, 1, ())


def test_scoring_takes_no_more_rows_at_once_than_training_unless_told_to():
    """What was predicted is a step of training: 64 rows of 8,192 tokens would not fit where one of them trains."""
    assert plan(settings("training.batch_size=2"), task(20)).eval_batch_size == 2
    planned = plan(settings("training.batch_size=2", "training.eval_batch_size=4"), task(20))
    assert (planned.batch_size, planned.eval_batch_size, planned.notes) == (2, 4, ())


def test_a_default_that_is_cut_is_not_worth_a_line():
    assert plan(settings(), task(3, scored=2)).notes == ()


def test_rows_are_ordered_by_length_where_they_have_one():
    assert plan(settings(), task(3, length=[1, 2, 3])).by_length
    assert not plan(settings(), task(3)).by_length
    assert not plan(settings("training.group_by_length=false"), task(3, length=[1, 2, 3])).by_length


@given(st.integers(1, 60), st.integers(1, 80), st.integers(1, 80), st.integers(1, 4), st.none() | st.integers(1, 40))
def test_every_step_has_rows_and_every_epoch_has_steps(rows, batch_size, accumulation, epochs, max_steps):
    chosen = settings()
    chosen.training.batch_size, chosen.training.gradient_accumulation = batch_size, accumulation
    chosen.training.epochs, chosen.training.max_steps = epochs, max_steps
    planned = plan(chosen, task(rows))
    assert 1 <= planned.batch_size <= rows
    assert (planned.epoch_steps - 1) * planned.gradient_accumulation * planned.batch_size < rows
    assert planned.epoch_steps * planned.gradient_accumulation * planned.batch_size >= rows
    assert planned.steps == (max_steps or epochs * planned.epoch_steps)
    assert (planned.epochs - 1) * planned.epoch_steps < planned.steps <= planned.epochs * planned.epoch_steps
    assert 0 <= planned.warmup_steps < planned.steps or planned.warmup_steps == math.ceil(0.06 * planned.steps) == 1


def test_the_trainer_gets_the_plan(tmp_path):
    given = training_arguments(settings("training.batch_size=1000", "training.max_steps=1"), task(20), tmp_path)
    assert given.per_device_train_batch_size == 20
    assert given.get_warmup_steps(1) == 0
    assert given.save_total_limit is None  # its rotation removes any folder named checkpoint-*
    assert not given.logging_nan_inf_filter


def test_of_several_gpus_one_trains_without_torchrun(tmp_path, monkeypatch):
    # The Trainer would wrap the model in nn.DataParallel, whose copies have no parameters that a reversal could train.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)
    monkeypatch.setattr(arguments, "torch", SimpleNamespace(cuda=cuda))
    given = training_arguments(settings("training.batch_size=4"), task(20), tmp_path)
    assert (given.n_gpu, given.train_batch_size) == (1, 4)


def test_gpus_that_are_left_alone_are_told_with_what_takes_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (note,) = plan(settings(), task(20)).notes
    assert "torchrun --nproc_per_node=2 -m meft_runner" in note
    chosen = settings()
    chosen.training.processes = 2
    assert plan(chosen, task(20)).notes == ()
