import math

import pytest
import torch
from datasets import Dataset

from meft_runner.config import Head, LoraSettings
from meft_runner.methods.layers import plain_layers
from meft_runner.run.distances import compare_with_plain, first_outputs, relative_distance
from meft_runner.tasks.data import EvalSplit, TaskData
from tests.helpers.composed import settings
from tests.helpers.models import batch, meft_settings, peft_settings, prepared, tiny_model
from tests.helpers.training import make_trainer

OUTPUTS = {
    "bert": ["logits"], "bart": ["logits"], "opt": ["logits"], "vit": ["logits"],
    "bart-span": ["start_logits", "end_logits"], "opt-answers": ["log_likelihoods"],
}  # fmt: skip
SPAN_LABELS = ("start_positions", "end_positions")


def together(rows):
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_outputs_of_every_head(kind):
    model, inputs = tiny_model(kind).train(), batch(kind)
    state = torch.get_rng_state()
    found = first_outputs(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not found.head.requires_grad
    with torch.no_grad():
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


def test_what_fills_short_rows_up_does_not_dilute_the_distance(tmp_path):
    """The ends of spans: one short row beside a long one, whose outputs the Trainer joins to one array."""
    lengths = (6, 60)
    rows = [{name: part[0].tolist() for name, part in batch("bart-span", 1, length).items()} for length in lengths]
    split = EvalSplit(Dataset.from_list(rows), lambda predictions: {"f1": 0.5})
    data = TaskData(Head.span, (), split.rows, {"validation": split}, "f1", together, {}, SPAN_LABELS)
    model = prepared(peft_settings("lora", scale_1="1/2"), "bart-span")
    chosen = settings("training.eval_batch_size=1")
    found = compare_with_plain(make_trainer(chosen, model, data, tmp_path, together), data)

    def outputs():
        return torch.cat([first_outputs(model, together([row])).head for row in rows])

    coupled = outputs()
    with plain_layers(model):
        plain = outputs()
    assert found.output_distance == pytest.approx(((coupled - plain).norm() / plain.norm()).item(), rel=1e-4)
    assert (found.score, found.coupled_score) == (0.5, 0.5)
