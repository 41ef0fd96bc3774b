"""Reversible models in training loops of others: the gradients of stored activations, bit for bit, with dropout."""

import pytest
import torch

from meft_runner import reversal_report
from tests.helpers.interface import made
from tests.helpers.loops import CAUSAL, LOOPS, PASSES, STEPS, rows

KINDS = ("bert", "roberta", "bart", "opt", "vit", "llama")
HOW = ("meft1", "lora", "dora", "ia3")
# SFTTrainer takes language models alone. One default case a loop; each architecture and each method is in one.
CASES = [(kind, how, loop) for kind in KINDS for how in HOW for loop in LOOPS if loop != "trl" or kind in CAUSAL]
QUICK = {("bart", "meft1", "trainer"), ("vit", "dora", "accelerate"), ("roberta", "ia3", "torch"),
         ("llama", "lora", "trl")}  # fmt: skip


def assert_as_stored(kind, how, loop, folder, **arguments):
    """Trains twice, and returns the gradients of reversed layers where they are those of stored activations."""
    models = [made(kind, how, reversal=reversal) for reversal in ("exact", "stored")]
    found, expected = (LOOPS[loop](model, rows(kind), folder, **arguments) for model in models)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert len(found) == STEPS * sum(parameter.requires_grad for parameter in models[0].parameters())
    assert all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in zip(found, expected, strict=True))
    assert sum(gradient.any().item() for _, gradient in found) > len(found) / 2
    report = reversal_report(models[0])
    assert (report.checked_steps, report.mismatches) == (STEPS * PASSES, 0)
    return found


@pytest.mark.parametrize(("kind", "how", "loop"), [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES
])  # fmt: skip
def test_gradients_are_those_of_stored_activations(kind, how, loop, tmp_path):
    assert_as_stored(kind, how, loop, tmp_path)
