"""Reversal is as exact beside weights in half precision or quantised: they are the same in both passes."""

import pytest
import torch

from tests.helpers.exactness import check_exactness
from tests.helpers.models import PEFT_METHODS, VARIANTS

BF16, FP16 = torch.bfloat16, torch.float16
FORMS = [("bf16", BF16), ("fp16", FP16), ("nf4", None), ("nf4", BF16), ("int8", None), ("int8", BF16)]
EACH_FORM = pytest.mark.parametrize(("form", "precision"), FORMS, ids=str)


@pytest.mark.parametrize(("name", "kind", "form", "precision"), [
    ("meft1", "bert", "nf4", None), ("meft1", "llama", "nf4", BF16), ("meft3", "llama-answers", "bf16", BF16),
    ("meft3", "vit", "int8", None), ("lora", "opt-answers", "nf4", BF16), ("lora", "bert", "int8", BF16),
])  # fmt: skip
def test_exact_equals_stored(name, kind, form, precision, monkeypatch):
    check_exactness(name, 4, precision, monkeypatch, kind=kind, form=form)


@pytest.mark.slow
@EACH_FORM
@pytest.mark.parametrize("layers", [12, 32])
@pytest.mark.parametrize("kind", ["bert", "bart", "deberta", "opt-answers", "vit", "llama", "qwen3-answers"])
@pytest.mark.parametrize("name", [*VARIANTS, *PEFT_METHODS])
def test_every_family_and_method(name, kind, layers, form, precision, monkeypatch):
    if (name, form) == ("dora", "int8"):
        pytest.skip("peft cannot, and the settings are refused")
    if layers == 32 and kind not in ("bert", "qwen3-answers"):
        pytest.skip("two families are deep enough")
    check_exactness(name, layers, precision, monkeypatch, kind=kind, form=form)
