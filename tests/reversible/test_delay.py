"""The delay coupling is exact: layers that peft's methods changed, of every family, at any depth, dropout on."""

import pytest
import torch

from meft_runner.methods.layers import reversible_stacks
from tests.helpers.exactness import PRECISIONS, check_equal_to_stored, check_exactness, relative_errors, train_once
from tests.helpers.models import KINDS, PEFT_METHODS, batch, gradients, move_away, peft_settings, prepared


@PRECISIONS
@pytest.mark.parametrize("layers", [6, 24, pytest.param(96, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PEFT_METHODS)
@pytest.mark.thin(3)
def test_at_any_depth(name, layers, precision, monkeypatch):
    found = check_exactness(name, layers, precision, monkeypatch)
    assert all(gradient.any() for gradient in found.values())


@PRECISIONS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PEFT_METHODS)
@pytest.mark.thin(6)
def test_every_family(name, kind, precision, monkeypatch):
    check_exactness(name, 2, precision, monkeypatch, kind=kind)


@pytest.mark.slow
@PRECISIONS
@pytest.mark.parametrize("layers", [24, 96])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lora", "ia3", "dora"])
def test_every_family_at_any_depth(name, kind, layers, precision, monkeypatch):
    check_exactness(name, layers, precision, monkeypatch, kind=kind)


@pytest.mark.parametrize("kind", ["bart", "opt"])
def test_left_padding(kind, monkeypatch):
    check_exactness("lora", 4, None, monkeypatch, kind=kind, padding="left")


@PRECISIONS
@pytest.mark.parametrize("name", ["lora", "dora"])
def test_dropout_of_the_update_is_drawn_again(name, precision, monkeypatch):
    check_exactness(name, 6, precision, monkeypatch, update_dropout=0.3)


@pytest.mark.parametrize("scale", ["1/2", "1/10", "1/16", "1/100"])
@pytest.mark.parametrize("mu", ["1-scale", "1", "0.5"])
def test_every_scale_and_mu(scale, mu, monkeypatch):
    check_exactness("lora", 6, None, monkeypatch, scale_1=scale, mu=mu)


@pytest.mark.parametrize("kind", ["bert", "bart", "vit"])
@pytest.mark.parametrize("name", PEFT_METHODS)
def test_two_chunks(name, kind):
    settings = {"kind": kind, "chunks": 2}
    check_equal_to_stored(*train_once(name, "exact", 4, None, **settings), name, 4, None, **settings)


@pytest.mark.parametrize("rows", [5, 1])
@pytest.mark.parametrize("name", PEFT_METHODS)
def test_many_chunks(name, rows):
    settings = {"rows": rows, "chunks": 5, "padding": None if rows == 1 else "right"}
    check_equal_to_stored(*train_once(name, "exact", 4, None, **settings), name, 4, None, **settings)


def gradients_after(name, reversal, passes):
    """Returns the gradients that `passes`, a function of a model and two batches, leaves."""
    model = move_away(prepared(peft_settings(name, reversal), layers=4))
    torch.manual_seed(3)
    passes(model, batch(seed=2), batch(seed=4))
    return gradients(model)


def accumulated(model, one, two):
    model(**one).loss.backward()
    model(**two).loss.backward()


def summed(model, one, two):
    (model(**one).loss + model(**two).loss).backward()


@pytest.mark.parametrize("passes", [accumulated, summed])
@pytest.mark.parametrize("name", ["lora", "ia3", "dora"])
def test_two_batches(name, passes):
    found, expected = (gradients_after(name, reversal, passes) for reversal in ("exact", "stored"))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_bart_learns_in_its_encoder_through_the_decoder(monkeypatch):
    found = check_exactness("lora", 4, None, monkeypatch, kind="bart")
    encoder = [gradient for layer, gradient in found.items() if ".encoder." in layer]
    assert len(encoder) == 4
    assert all(gradient.any() for gradient in encoder)


def test_evaluation_keeps_nothing_and_draws_nothing():
    model = prepared(peft_settings("lora"), layers=4).eval()
    state = torch.get_rng_state()
    with torch.no_grad():
        first, second = (model(**batch()).logits for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.requires_grad


def test_fp16_with_a_loss_scaler():
    _, reference, _ = train_once("lora", "stored", 4, None)
    model = move_away(prepared(peft_settings("lora"), layers=4))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(**batch()).loss
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    joined = torch.cat([gradient.flatten() for gradient in gradients(model).values()])
    expected = torch.cat(list(reference.values()))
    assert ((joined - expected).norm() / expected.norm()).item() < 2e-2
    assert reversible_stacks(model)[0].monitor.mismatches == 0


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", PEFT_METHODS)
def test_on_cuda(name, precision):
    reference_loss, reference, _ = train_once(name, "stored", 12, precision, device="cuda")
    loss, found, model = train_once(name, "exact", 12, precision, device="cuda")
    assert loss == reference_loss
    assert max(relative_errors(found, reference).values()) <= (5e-6 if precision is None else 2e-2)
    assert reversible_stacks(model)[0].monitor.mismatches == 0
