"""Streams come back bit for bit and gradients equal stored ones, through real BERT layers of any depth."""

import pytest
import torch

from meft_runner.methods.layers import reversible_stacks
from tests.helpers.exactness import BOUNDS, PRECISIONS, check_exactness, relative_errors, train_once
from tests.helpers.models import VARIANTS, batch, gradients, meft_settings, prepared


@PRECISIONS
@pytest.mark.parametrize("layers", [6, 24, 96])
@pytest.mark.parametrize("variant", VARIANTS)
def test_exact_reversal(variant, layers, precision, monkeypatch):
    check_exactness(variant, layers, precision, monkeypatch)


@PRECISIONS
@pytest.mark.parametrize(("kind", "padding"), [
    ("bert", "left"), ("roberta", "left"), ("bart", "right"), ("bart", "left"), ("bart-span", "right"),
    ("opt", "right"), ("opt", "left"), ("opt-postln", "left"), ("opt-answers", "left"), ("vit", None), ("deit", None),
    ("llama", "left"), ("qwen3-answers", "left"), ("deberta", "left"),
])  # fmt: skip
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family(variant, kind, padding, precision, monkeypatch):
    check_exactness(variant, 12, precision, monkeypatch, kind=kind, padding=padding)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bart", "opt", "opt-postln", "vit", "deberta"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_deep_stacks_of_every_form(variant, kind, monkeypatch):
    check_exactness(variant, 48, None, monkeypatch, kind=kind)


@pytest.mark.parametrize("variant", VARIANTS)
def test_barts_encoder_learns_through_the_decoder(variant, monkeypatch):
    found = check_exactness(variant, 6, None, monkeypatch, kind="bart")
    encoder = [gradient for layer, gradient in found.items() if ".encoder." in layer]
    assert len(encoder) == 6
    assert all(gradient.norm() > 0 for gradient in encoder)


@pytest.mark.parametrize("variant", VARIANTS)
def test_debertas_vectors_of_distances_learn_from_every_block(variant):
    """They are frozen unless somebody trains them; as inputs of the stack they get the sum over its blocks."""
    found = {}
    for reversal in ("exact", "stored"):
        model = prepared(meft_settings(variant, reversal), "deberta", layers=3)
        model.deberta.encoder.rel_embeddings.requires_grad_(True)
        torch.manual_seed(3)
        model(**batch("deberta")).loss.backward()
        found[reversal] = gradients(model)["deberta.encoder.rel_embeddings.weight"]
    assert found["stored"].norm() > 0
    assert ((found["exact"] - found["stored"]).norm() / found["stored"].norm()).item() <= BOUNDS[None]


@pytest.mark.parametrize("variant", VARIANTS)
def test_float_reversal_fails_the_same_bound(variant):
    _, reference, _ = train_once(variant, "stored", 12, None)
    _, found, model = train_once(variant, "float", 12, None)
    assert max(relative_errors(found, reference).values()) > 100 * BOUNDS[None]
    assert reversible_stacks(model)[0].monitor.max_error > 1e-3


@pytest.mark.parametrize("settings", [
    {"mu": "1-scale"}, {"mu": "0.7"}, {"scale_1": "1/256", "scale_2": "1/16", "mu": "1-scale"},
    {"adapter_factor": 4.0}, {"zero_start": True}, {"merge": "learned"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_setting_is_exact(variant, precision, settings, monkeypatch):
    check_exactness(variant, 6, precision, monkeypatch, **settings)


@pytest.mark.parametrize("merge", [[0.0, 1.0], [1.0, 0.0]], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stream_that_is_not_read(variant, merge, monkeypatch):
    check_exactness(variant, 3, None, monkeypatch, merge=merge)


@pytest.mark.parametrize(
    ("kind", "rows"), [("bert", 4), ("bert", 1), ("opt", 4), ("opt", 1), ("bart", 4), ("vit", 3), ("deberta", 4)]
)
@pytest.mark.parametrize("chunks", [2, 3, 7])
@pytest.mark.parametrize("variant", VARIANTS)
def test_pieces_stay_exact(variant, chunks, kind, rows):
    settings = {"kind": kind, "rows": rows, "chunks": chunks, "padding": None if rows == 1 else "right"}
    reference_loss, reference, _ = train_once(variant, "stored", 4, None, **settings)
    loss, found, model = train_once(variant, "exact", 4, None, **settings)
    assert loss == reference_loss
    assert max(relative_errors(found, reference).values()) <= BOUNDS[None]
    assert all(stack.monitor.mismatches == 0 for stack in reversible_stacks(model))


def test_pieces_compute_what_the_whole_does():
    whole, pieces = (train_once("meft1", "exact", 4, None, chunks=chunks, dropout=0.0)[1] for chunks in (1, 3))
    assert max(relative_errors(pieces, whole).values()) < 1e-4


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
