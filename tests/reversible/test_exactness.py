"""Streams come back bit for bit and gradients equal stored ones, through real BERT layers of any depth."""

import pytest
import torch

from meft_runner.methods.meft import reversible_stacks
from meft_runner.reversible.streams import ExactStreams
from tests.models import VARIANTS, batch, gradients, meft_settings, prepared

BOUNDS = {None: 5e-6, torch.bfloat16: 2e-2}
PRECISIONS = pytest.mark.parametrize("precision", BOUNDS, ids=["fp32", "bf16"])


def train_once(variant, reversal, layers, precision, device="cpu", **kwargs):
    """Returns loss, gradients by layer and the model after one forward and backward pass."""
    model = prepared(meft_settings(variant, reversal, **kwargs), layers=layers).to(device)
    inputs = {name: tensor.to(device) for name, tensor in batch().items()}
    torch.manual_seed(3)
    with torch.autocast(device, dtype=precision or torch.bfloat16, enabled=precision is not None):
        loss = model(**inputs).loss
    loss.backward()
    by_layer: dict[str, list[torch.Tensor]] = {}
    for name, gradient in gradients(model).items():
        layer = name.split("blocks.")[1].split(".")[0] if "blocks." in name else name
        by_layer.setdefault(layer, []).append(gradient.flatten())
    return loss.item(), {layer: torch.cat(parts) for layer, parts in by_layer.items()}, model


def relative_errors(gradients, reference):
    return {layer: ((g - reference[layer]).norm() / reference[layer].norm()).item() for layer, g in gradients.items()}


@PRECISIONS
@pytest.mark.parametrize("layers", [6, 24, 96])
@pytest.mark.parametrize("variant", VARIANTS)
def test_exact_reversal(variant, layers, precision, monkeypatch):
    before, after = [], []
    advance, revert = ExactStreams.advance, ExactStreams.revert

    def recording_advance(self, stream, *args):
        before.append(stream.clone())
        return advance(self, stream, *args)

    def recording_revert(self, *args):
        after.append(revert(self, *args))
        return after[-1]

    reference_loss, reference, _ = train_once(variant, "stored", layers, precision)
    monkeypatch.setattr(ExactStreams, "advance", recording_advance)
    monkeypatch.setattr(ExactStreams, "revert", recording_revert)
    loss, found, model = train_once(variant, "exact", layers, precision)

    assert len(before) == len(after) == 2 * layers
    assert all(torch.equal(old, new) for old, new in zip(before, reversed(after), strict=True))
    assert loss == reference_loss
    assert max(relative_errors(found, reference).values()) <= BOUNDS[precision]
    monitor = reversible_stacks(model)[0].monitor
    assert (monitor.checked_steps, monitor.mismatches, monitor.max_error) == (1, 0, 0.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float_reversal_fails_the_same_bound(variant):
    _, reference, _ = train_once(variant, "stored", 12, None)
    _, found, model = train_once(variant, "float", 12, None)
    assert max(relative_errors(found, reference).values()) > 100 * BOUNDS[None]
    assert reversible_stacks(model)[0].monitor.max_error > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("chunks", [2, 3])
def test_chunks_stay_exact(variant, chunks):
    reference_loss, reference, _ = train_once(variant, "stored", 4, None, chunks=chunks)
    loss, found, _ = train_once(variant, "exact", 4, None, chunks=chunks)
    assert loss == reference_loss
    assert max(relative_errors(found, reference).values()) <= BOUNDS[None]


@pytest.mark.parametrize("variant", VARIANTS)
def test_fp16_with_a_loss_scaler(variant):
    _, reference, _ = train_once(variant, "stored", 4, None)
    model = prepared(meft_settings(variant), layers=4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(**batch()).loss
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    assert reversible_stacks(model)[0].monitor.mismatches == 0
    joined = torch.cat([g.flatten() for g in gradients(model).values()])
    expected = torch.cat([reference[layer] for layer in reference])
    assert ((joined - expected).norm() / expected.norm()).item() < 2e-2
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 1024.0  # no overflow was found, so the step was taken


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_exact_reversal_on_cuda(variant, precision):
    reference_loss, reference, _ = train_once(variant, "stored", 12, precision, device="cuda")
    loss, found, model = train_once(variant, "exact", 12, precision, device="cuda")
    assert loss == reference_loss
    assert max(relative_errors(found, reference).values()) <= (5e-6 if precision is None else 2e-2)
    assert reversible_stacks(model)[0].monitor.mismatches == 0
