import math

import pytest
import torch

from meft_runner.config import LoraSettings
from meft_runner.run.distances import first_outputs, relative_distance
from tests.helpers.models import batch, meft_settings, prepared, tiny_model

OUTPUTS = {
    "bert": ["logits"], "bart": ["logits"], "opt": ["logits"], "vit": ["logits"],
    "bart-span": ["start_logits", "end_logits"], "opt-answers": ["log_likelihoods"],
}  # fmt: skip


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_outputs_of_every_head(kind):
    model, inputs = tiny_model(kind).train(), batch(kind)
    state = torch.get_rng_state()
    found = first_outputs(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not found.head.requires_grad
    expected = model.eval()(**inputs)
    assert torch.equal(found.head, torch.cat([expected[name].flatten() for name in OUTPUTS[kind]]).double())


def test_the_distance_is_relative_to_the_reference():
    reference = torch.tensor([3.0, 4.0])
    assert relative_distance(torch.tensor([3.0, 4.0]), reference) == 0.0
    assert relative_distance(torch.tensor([0.0, 4.0]), reference) == pytest.approx(0.6)
    assert relative_distance(torch.tensor([math.inf, 4.0]), reference) is None
    assert relative_distance(reference, torch.zeros(2)) is None


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_distance_from_the_pretrained_model(kind):
    def distance(method):
        before = first_outputs(tiny_model(kind), batch(kind))
        found = first_outputs(prepared(method, kind, model=tiny_model(kind)), batch(kind))
        return [relative_distance(*pair) for pair in zip(found, before, strict=True)]

    def lora(constant):
        return LoraSettings("lora", 1e-3, init_constant=constant)

    assert distance(lora(None)) == [0.0, 0.0]
    assert all(0.0 < near < far for near, far in zip(distance(lora(0.01)), distance(lora(0.1)), strict=True))
    assert all(each > 0.0 for each in distance(meft_settings()))
