"""Predicted memory of a delay coupling beside that of MEFT1 and of gradient checkpointing."""

import pytest

from meft_runner.config import Precision
from meft_runner.memory_report.case import Case
from meft_runner.memory_report.prediction import predict
from tests.helpers.composed import settings
from tests.helpers.models import meft_settings, peft_settings


def check(backbone, rows, length, precision=Precision.fp32):
    def activations(method):
        return predict(Case(backbone, method, rows, length, precision))["activations_bytes"]

    packed = rows * length * backbone.config["hidden_size"] * backbone.config["num_hidden_layers"]
    found = activations(peft_settings("lora"))
    assert found <= activations(meft_settings("meft1")) + packed
    assert found < activations(peft_settings("lora", "off", checkpointing=True))


def test_lora_reversed_needs_meft1s_activations_and_a_packed_byte():
    check(settings("backbone=minilm", "backbone.config.num_hidden_layers=2").backbone, rows=32, length=64)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "rows", "length", "precision"), [
    ("minilm", 32, 128, "fp32"), ("minilm", 32, 128, "bf16"), ("minilm", 4, 512, "fp32"),
    ("bert", 32, 128, "fp32"), ("bert", 32, 128, "bf16"), ("bert", 8, 512, "fp32"), ("roberta", 32, 128, "fp32"),
])  # fmt: skip
def test_at_the_sizes_of_models(backbone, rows, length, precision):
    check(settings(f"backbone={backbone}").backbone, rows, length, Precision[precision])
