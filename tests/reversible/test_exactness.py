"""Streams come back bit for bit and gradients equal stored ones, through real BERT layers of any depth."""

from functools import partial

import pytest
import torch

from meft_runner.methods.layers import reversible_stacks
from meft_runner.reversible import Stage
from tests.helpers.exactness import (
    BOUNDS,
    PRECISIONS,
    check_equal_to_stored,
    check_exactness,
    relative_errors,
    train_once,
)  # fmt: skip
from tests.helpers.models import VARIANTS, batch, gradients, meft_settings, prepared


@PRECISIONS
@pytest.mark.parametrize("layers", [6, pytest.param(24, marks=pytest.mark.slow), 96])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.thin(5)
def test_exact_reversal(variant, layers, precision, monkeypatch):
    check_exactness(variant, layers, precision, monkeypatch)


@PRECISIONS
@pytest.mark.parametrize(("kind", "padding"), [
    ("bert", "left"), ("bart", "right"), ("opt", "right"), ("opt-postln", "left"), ("vit", None), ("llama", "left"),
    ("qwen3-answers", "left"), ("deberta", "left"),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in [
        ("roberta", "left"), ("bart", "left"), ("bart-span", "right"), ("opt", "left"), ("opt-answers", "left"),
        ("deit", None),
    ]),
])  # fmt: skip
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.thin(5)
def test_every_family(variant, kind, padding, precision, monkeypatch):
    check_exactness(variant, 12, precision, monkeypatch, kind=kind, padding=padding)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bart", "opt", "opt-postln", "vit", "deberta"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_deep_stacks_of_every_form(variant, kind, monkeypatch):
    check_exactness(variant, 48, None, monkeypatch, kind=kind)


@pytest.mark.slow
@PRECISIONS
@pytest.mark.parametrize("layers", [12, 32])
@pytest.mark.parametrize(("kind", "padding"), [
    ("llama", "right"), ("llama-answers", "left"), ("mistral", "left"), ("qwen2", "right"), ("qwen3", "left"),
])  # fmt: skip
@pytest.mark.parametrize("name", [*VARIANTS, "lora"])
def test_decoders_of_llamas_layer(name, kind, padding, layers, precision, monkeypatch):
    check_exactness(name, layers, precision, monkeypatch, kind=kind, padding=padding)


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


def test_a_stack_that_nothing_reads_gets_no_gradient():
    """The last G is left out, and with one decoder layer it alone would read the encoder."""
    without = {}
    for reversal in ("exact", "stored"):
        model = prepared(meft_settings("meft2", reversal, merge=[0.0, 1.0]), "bart", layers=1)
        model(**batch("bart")).loss.backward()
        without[reversal] = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without["exact"] == without["stored"]
    assert any(".encoder." in name for name in without["exact"])


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
@pytest.mark.thin(3)
def test_every_setting_is_exact(variant, precision, settings, monkeypatch):
    check_exactness(variant, 6, precision, monkeypatch, **settings)


@pytest.mark.parametrize("merge", [[0.0, 1.0], [1.0, 0.0]], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stream_that_is_not_read(variant, merge, monkeypatch):
    check_exactness(variant, 3, None, monkeypatch, merge=merge)


IN_PIECES = [("bert", 4), ("bert", 1), ("opt", 4), ("opt", 1), ("bart", 4), ("bart", 1), ("vit", 3),
             ("deberta", 4), ("llama", 4)]  # fmt: skip


@pytest.mark.parametrize(("kind", "rows"), IN_PIECES)
@pytest.mark.parametrize("chunks", [2, pytest.param(3, marks=pytest.mark.slow), 7])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.thin(3)
def test_pieces_stay_exact(variant, chunks, kind, rows):
    settings = {"kind": kind, "rows": rows, "chunks": chunks, "padding": None if rows == 1 else "right"}
    check_equal_to_stored(*train_once(variant, "exact", 4, None, **settings), variant, 4, None, **settings)


LONG = [(name, kind) for name in (*VARIANTS, "lora") for kind in
        ("bert", "roberta", "bart", "opt", "opt-postln", "vit", "deberta", "llama", "mistral", "qwen3")]  # fmt: skip
QUICK_LONG = [(name, kind) for name, kind in LONG if name == "meft1" or kind == "llama"]


def check_long_rows(name, kind, precision, monkeypatch):
    """Holds rows of at least six pieces against stored activations; a piece has two tokens."""
    stages, evaluate = [], Stage.__call__
    monkeypatch.setattr(Stage, "__call__", lambda self, *given: (stages.append(self), evaluate(self, *given))[1])
    settings = {"kind": kind, "rows": 2, "padding": "left", "chunks": 17 if kind == "vit" else 12}
    found = train_once(name, "exact", 2, precision, **settings)
    if (name, kind) == ("lora", "deberta"):  # reads queries' weights twice, whose gradients add up in another order
        _, reference, _ = train_once(name, "stored", 2, precision, **settings)
        assert max(relative_errors(found[1], reference).values()) <= BOUNDS[precision]
        return
    check_equal_to_stored(*found, name, 2, precision, **settings)
    reading = [stage for stage in stages if stage.tokenwise and isinstance(stage.run, partial)]
    assert len(reading) > 6 or kind == "deberta"  # what stands before the attention kernel is cut too


@pytest.mark.parametrize(("name", "kind"), QUICK_LONG)
def test_rows_of_many_pieces_stay_exact(name, kind, monkeypatch):
    check_long_rows(name, kind, None, monkeypatch)


@pytest.mark.slow
@PRECISIONS
@pytest.mark.parametrize(("name", "kind"), LONG)
def test_rows_of_many_pieces_stay_exact_with_every_method(name, kind, precision, monkeypatch):
    check_long_rows(name, kind, precision, monkeypatch)


def hidden_and_gradients(positions, reversal, chunks):
    model = prepared(meft_settings("meft3", reversal, chunks=chunks), "llama", layers=4)
    model.score.requires_grad_(False)
    ids = batch("llama", padding=None)["input_ids"]
    torch.manual_seed(3)
    hidden = model.base_model(ids, attention_mask=torch.ones_like(ids), position_ids=positions).last_hidden_state
    (hidden * torch.linspace(-1, 1, hidden.numel()).view(hidden.shape)).sum().backward()
    return hidden.detach(), gradients(model)


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_positions_may_differ_from_row_to_row(chunks):
    own = torch.arange(12) + torch.tensor([[0], [3], [20], [50]])
    found, reference = (hidden_and_gradients(own, reversal, chunks) for reversal in ("exact", "stored"))
    assert torch.equal(found[0], reference[0])
    assert all(torch.equal(gradient, reference[1][name]) for name, gradient in found[1].items())
    shared, alike = (hidden_and_gradients(torch.arange(12).expand(rows, 12), "exact", chunks) for rows in (1, 4))
    assert torch.equal(shared[0], alike[0])
    assert all(torch.equal(gradient, alike[1][name]) for name, gradient in shared[1].items())
    own[:] = own[0] + 5 * torch.arange(12)  # another distance from token to token
    assert not torch.allclose(hidden_and_gradients(own, "exact", chunks)[0], shared[0], atol=1e-4)


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
