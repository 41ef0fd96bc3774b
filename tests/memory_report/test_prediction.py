"""Predicted memory of a delay coupling beside that of MEFT1 and of gradient checkpointing."""

import pytest

from meft_runner.config import Precision
from meft_runner.memory_report.case import Case
from meft_runner.memory_report.prediction import predict
from tests.helpers.composed import settings
from tests.helpers.models import meft_settings, peft_settings


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "rows", "length", "precision"), [
    ("minilm", 32, 128, "fp32"), ("minilm", 32, 128, "bf16"), ("minilm", 4, 512, "fp32"),
    ("bert", 32, 128, "fp32"), ("bert", 32, 128, "bf16"), ("bert", 8, 512, "fp32"), ("roberta", 32, 128, "fp32"),
])  # fmt: skip
def test_lora_reversed_needs_meft1s_activations_and_a_packed_byte(backbone, rows, length, precision):
    chosen = settings(f"backbone={backbone}").backbone

    def activations(method):
        return predict(Case(chosen, method, rows, length, Precision[precision]))["activations_bytes"]

    packed = rows * length * chosen.config["hidden_size"] * chosen.config["num_hidden_layers"]
    found = activations(peft_settings("lora"))
    assert found <= activations(meft_settings("meft1")) + packed
    assert found < activations(peft_settings("lora", "off", checkpointing=True))
