"""What waits in the host's memory, of checkpointing and of reversible layers, and what that frees on the device."""

from dataclasses import replace

import pytest
from transformers import modeling_utils

from meft_runner.config import Head, Kernel, Precision, WeightForm
from meft_runner.config.methods import CHECKPOINTING
from meft_runner.memory_report.case import Case
from meft_runner.memory_report.prediction import predict
from tests.helpers.composed import settings

LAYERS, HIDDEN = 4, 256
SIZES = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": 4}
INNER = {"opt_125m": {"ffn_dim": 1024, "word_embed_proj_dim": HIDDEN}, "roberta_base": {"intermediate_size": 1024}}


def by_kind(backbone, form="fp32", precision="fp32"):
    """Predictions of LoRA at 8 x 64, by the kind of checkpointing."""
    chosen = settings(f"backbone={backbone}", "method=lora")
    sizes = chosen.backbone.config | SIZES | INNER[backbone]
    model = replace(chosen.backbone, config=sizes, weights=WeightForm[form])
    on = {"precision": Precision[precision], "attention": Kernel.flash, "head": Head.classification}
    return {
        kind: predict(Case(model, replace(chosen.method, checkpointing=kind), 8, 64, **on)) for kind in CHECKPOINTING
    }


def row_of(backbone, *typed):
    """A prediction at 8 x 64."""
    chosen = settings(f"backbone={backbone}", *typed)
    model = replace(chosen.backbone, config=chosen.backbone.config | SIZES | INNER[backbone])
    return predict(Case(model, chosen.method, 8, 64, attention=Kernel.flash, head=Head.classification))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "form", "precision", "size"),
    [("opt_125m", "bf16", "bf16", 2), ("opt_125m", "fp32", "fp32", 4), ("roberta_base", "fp32", "bf16", 4)],
)
def test_what_a_layer_is_computed_from_waits_on_the_host(backbone, form, precision, size):
    rows = by_kind(backbone, form, precision)
    assert rows["offload"]["host_bytes"] == LAYERS * 8 * 64 * HIDDEN * size
    assert [rows[kind]["host_bytes"] for kind in (False, True, "every_4")] == [0, 0, 0]
    freed = rows[True]["retained_after_forward_bytes"] - rows["offload"]["retained_after_forward_bytes"]
    assert freed == pytest.approx(rows["offload"]["host_bytes"], rel=0.3)  # the last layer's output stays for the head
    assert rows["offload"]["activations_bytes"] < rows[True]["activations_bytes"]


@pytest.mark.slow
def test_one_layer_in_four_keeps_nothing():
    rows = by_kind("opt_125m")
    kept = {kind: row["retained_after_forward_bytes"] for kind, row in rows.items()}
    assert kept["every_4"] - kept[True] == pytest.approx((LAYERS - 1) / LAYERS * (kept[False] - kept[True]), rel=0.1)


@pytest.mark.slow
def test_what_was_replaced_is_put_back():
    own = modeling_utils.save_on_cpu
    by_kind("opt_125m")
    assert modeling_utils.save_on_cpu is own


@pytest.mark.parametrize(
    ("name", "bits"),
    [("meft1", 4), *(pytest.param(*each, marks=pytest.mark.slow) for each in [("meft3", 8), ("lora", 8)])],
)  # of all halves that keep some
def test_what_reversible_layers_keep_waits_on_the_host(name, bits):
    typed = [f"method={name}", "method.reversal=exact"]
    rows = [row_of("opt_125m", *typed, *more) for more in ([], ["method.offload=true"])]
    packed = LAYERS * 8 * 64 * HIDDEN * bits // 8
    assert [row["host_bytes"] for row in rows] == [0, packed]
    left = [row["retained_after_forward_bytes"] for row in rows]
    assert left[0] - left[1] == packed
    peaks = [row["activations_bytes"] for row in rows]
    in_flight = 2 * packed // LAYERS  # at the most, of a layer: one that is computed with, and one that comes
    assert packed - in_flight <= peaks[0] - peaks[1] <= packed
