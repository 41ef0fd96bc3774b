"""One training step of a reversible model, and how its gradients differ from a reference."""

import re

import pytest
import torch

from tests.helpers.models import batch, gradients, meft_settings, prepared

BOUNDS = {None: 5e-6, torch.bfloat16: 5e-6}
PRECISIONS = pytest.mark.parametrize("precision", BOUNDS, ids=["fp32", "bf16"])


def train_once(
    variant, reversal, layers, precision, device="cpu", kind="bert", padding="right", rows=4, dropout=0.1, **kwargs
):
    """Returns loss, gradients by layer and the model after one forward and backward pass."""
    model = prepared(meft_settings(variant, reversal, **kwargs), kind, layers=layers, dropout=dropout).to(device)
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
