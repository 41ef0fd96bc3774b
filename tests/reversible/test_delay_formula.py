"""The delay coupling over original Hugging Face layers, by ordinary autograd in float64; how near plain layers are."""

import pytest
import torch

from tests.helpers.models import KINDS, batch, family_of, move_away, peft_settings, prepared, tiny_model
from tests.helpers.naive import delay_by_hand


def step(name, kind, dtype=torch.float64, layers=4, by_hand=None, **settings):
    """Returns loss, all gradients and the logits of one step without dropout; `by_hand` gives scale and mu.

    Language models have no logits.
    """
    settings = {"reversal": "off"} if by_hand or not settings else settings
    inner = tiny_model(kind, layers=layers, dropout=0.0)
    model = move_away(prepared(peft_settings(name, **settings), kind, model=inner)).to(dtype)
    if by_hand:
        delay_by_hand(inner, family_of(kind), *by_hand)
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch(kind).items()}
    loss, *outputs = (value for value in model(**inputs).values() if torch.is_tensor(value))
    loss.backward()
    gradients = torch.cat([p.grad.double().flatten() for p in model.parameters() if p.requires_grad])
    return loss.item(), gradients, outputs[0].detach().flatten() if outputs else None


def distance(found, reference):
    return ((found - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("reversal", ["exact", "stored"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lora", "ia3", "dora"])
@pytest.mark.thin(6)
def test_on_a_fine_grid_it_is_the_formula(name, kind, reversal):
    expected_loss, expected, _ = step(name, kind, by_hand=(1 / 10, 9 / 10))
    loss, found, _ = step(name, kind, scale_1="1/10", grid_bits=24, reversal=reversal)
    assert loss == pytest.approx(expected_loss, abs=2e-6)
    assert distance(found, expected) < 1e-5


@pytest.mark.parametrize("kind", ["bert", "bart", "opt", "vit"])
def test_in_single_precision_it_is_the_formula(kind):
    expected_loss, expected, _ = step("lora", kind, by_hand=(1 / 256, 1.0))
    loss, found, _ = step("lora", kind, torch.float32, mu="1", grid_bits=20, reversal="exact")
    assert loss == pytest.approx(expected_loss, abs=1e-4)
    assert distance(found, expected) < 1e-4


@pytest.mark.parametrize("kind", ["bert", "bart"])
def test_floating_point_streams_are_the_formula(kind):
    expected_loss, expected, _ = step("lora", kind, by_hand=(1 / 10, 9 / 10))
    loss, found, _ = step("lora", kind, scale_1="1/10", reversal="float")
    assert loss == pytest.approx(expected_loss, abs=1e-12)
    assert distance(found, expected) < 1e-9


@pytest.mark.parametrize("kind", ["bert", "bart", "opt", "vit"])
@pytest.mark.parametrize("name", ["lora", "ia3"])
@pytest.mark.thin(2)
def test_gradients_come_near_those_without_reversal_as_lambda_shrinks(name, kind):
    """Both distances shrink with lambda about linearly; that of the gradients stays below six times the outputs'."""
    _, plain, plain_outputs = step(name, kind, layers=6)
    gradients, outputs = {}, {}
    for n in (8, 32, 256):
        _, found, logits = step(name, kind, layers=6, scale_1=f"1/{n}", grid_bits=22, reversal="exact")
        gradients[n], outputs[n] = distance(found, plain), distance(logits, plain_outputs)
        assert gradients[n] < 6 * outputs[n]
    for found in (gradients, outputs):
        assert 2.5 < found[8] / found[32] < 5  # 4, were it linear
        assert 4 < found[32] / found[256] < 10  # 8; OPT's ReLUs bend it
    assert gradients[256] < 0.02
