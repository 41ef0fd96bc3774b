"""Runs that train nothing: how far from pre-training each method starts, how true the gradients of a reversal are."""

import pytest

from meft_runner.config import METHODS
from meft_runner.run import lifecycle
from meft_runner.run.console import run_table
from tests.helpers.composed import tiny

REVERSED = [f"method={name} method.reversal=exact" for name in ("lora", "dora", "ia3", "vera")]
QUICK = ("method=full", "method=meft1_start", REVERSED[0])


def each(found):
    return [pytest.param(typed, marks=() if typed in QUICK else pytest.mark.slow) for typed in found]


def checked(record):
    """Returns what the table of a run says of its reversal."""
    return run_table(record).set_index("figure")["value"]["reversal check"]


@pytest.mark.parametrize("typed", each([*(f"method={name}" for name in METHODS), *REVERSED]))
def test_the_start_of_every_method(typed, rte_folder, tmp_path):
    record = lifecycle.run(tiny(rte_folder, tmp_path, "study=start", *typed.split()))
    reverses = "exact" in typed or "meft" in typed
    assert record.scores is None
    assert record.memory.activations_bytes > 0
    assert (record.start.output_distance == pytest.approx(0, abs=1e-6)) is not reverses
    assert (record.start.hidden_distance == pytest.approx(0, abs=1e-6)) is not reverses
    assert checked(record) == ("exact: no step was trained" if reverses else "not reversible")


@pytest.mark.parametrize("typed", each([*REVERSED, "method=meft1_start", "method=meft3_start"]))
def test_the_gradients_of_every_reversible_method(typed, rte_folder, tmp_path):
    record = lifecycle.run(tiny(rte_folder, tmp_path, "study=gradients", *typed.split()))
    assert [layer.layer for layer in record.gradients] == ["layer 0", "layer 1"]
    assert all(layer.error < 1e-6 for layer in record.gradients)
    assert checked(record) == "exact: 0 mismatches in 1 steps"
