"""One training step of a reversible model, and how its gradients differ from a reference."""

import re

import pytest
import torch

from meft_runner.methods.layers import reversible_stacks
from meft_runner.reversible import ExactStreams
from tests.helpers.models import PEFT_METHODS, batch, gradients, meft_settings, move_away, peft_settings, prepared

BOUNDS = {None: 5e-6, torch.bfloat16: 5e-6}
PRECISIONS = pytest.mark.parametrize("precision", BOUNDS, ids=["fp32", "bf16"])


def train_once(
    name,
    reversal,
    layers,
    precision,
    device="cpu",
    kind="bert",
    padding="right",
    rows=4,
    dropout=0.1,
    update_dropout=None,
    form="fp32",
    **kwargs,
):
    """Returns loss, gradients by layer and the model after one forward and backward pass.

    `name` is that of a variant of MEFT, or of a method of peft, what it trains moved away from its start;
    `update_dropout` is LoRA's own, `dropout` the model's, `form` that of the frozen weights.
    """
    peft = name in PEFT_METHODS
    kwargs |= {} if update_dropout is None else {"dropout": update_dropout}
    method = (peft_settings if peft else meft_settings)(name, reversal, **kwargs)
    model = prepared(method, kind, form=form, precision=precision, layers=layers, dropout=dropout)
    model = (move_away(model) if peft else model).to(device)
    inputs = {name: tensor.to(device) for name, tensor in batch(kind, rows=rows, padding=padding).items()}
    torch.manual_seed(3)
    with torch.autocast(device, dtype=precision or torch.bfloat16, enabled=precision is not None):
        loss = model(**inputs).loss
    loss.backward()
    by_layer: dict[str, list[torch.Tensor]] = {}
    for name, gradient in gradients(model).items():
        layer = re.sub(r"(blocks\.\d+)\..*", r"\1", name)
        by_layer.setdefault(layer, []).append(gradient.flatten())
    return loss.item(), {layer: torch.cat(parts) for layer, parts in by_layer.items()}, model


def relative_errors(gradients, reference):
    return {layer: ((g - reference[layer]).norm() / reference[layer].norm()).item() for layer, g in gradients.items()}


def check_exactness(name, layers, precision, monkeypatch, **kwargs):
    """Compares exact reversal with stored activations, bit for bit: every stream, the loss, every layer's gradient."""
    before, after = [], []
    advance, revert = ExactStreams.advance, ExactStreams.revert_

    def recording_advance(self, stream, *args):
        before.append(stream.clone())
        return advance(self, stream, *args)

    def recording_revert(self, stream, *args):
        checksum = revert(self, stream, *args)
        after.append(stream.clone())
        return checksum

    with monkeypatch.context() as patch:
        patch.setattr(ExactStreams, "advance", recording_advance)
        patch.setattr(ExactStreams, "revert_", recording_revert)
        loss, found, model = train_once(name, "exact", layers, precision, **kwargs)
    check_equal_to_stored(loss, found, model, name, layers, precision, **kwargs)
    blocks = [block for stack in reversible_stacks(model) for block in stack.blocks]
    assert len(before) == len(after) == sum(each is not None for block in blocks for each in (block.f, block.g))
    assert all(torch.equal(old.flatten(), new.flatten()) for old, new in zip(before, reversed(after), strict=True))
    return found


def check_equal_to_stored(loss, found, model, name, layers, precision, **kwargs):
    """Holds what `train_once` returned of exact reversal against stored activations, bit for bit."""
    reference_loss, reference, _ = train_once(name, "stored", layers, precision, **kwargs)
    assert loss == reference_loss
    assert found.keys() == reference.keys()
    assert all(torch.equal(gradient, reference[layer]) for layer, gradient in found.items())
    monitors = [stack.monitor for stack in reversible_stacks(model)]
    assert all((m.checked_steps, m.mismatches, m.max_error) == (1, 0, 0.0) for m in monitors)
