"""The Trainer's side of the engine: accumulation, checks of the first step, checkpoints of trained weights."""

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback, default_data_collator

from meft_runner.backbones.answers import IGNORED
from meft_runner.config import Head, Ia3Settings, LoraSettings
from meft_runner.tasks import EvalSplit, TaskData
from tests.helpers.composed import settings
from tests.helpers.models import batch, meft_settings, prepared
from tests.helpers.training import make_trainer


class Capture(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def step_gradients(method, tmp_path, batch_size, accumulation, kind="bert"):
    inputs = batch(kind, rows=16, padding=None)
    if kind == "opt-answers":  # the first half of the rows learns fewer tokens than the second one
        inputs["labels"][:8, 6:] = IGNORED
        inputs["labels"][:, 3:5] = inputs["input_ids"][:, 3:5]
    data = Dataset.from_dict({name: tensor.tolist() for name, tensor in inputs.items()})
    task = TaskData(Head.classification, (), data, {"validation": EvalSplit(data, None)}, "accuracy", None, {})
    chosen = settings(
        f"training.batch_size={batch_size}",
        f"training.gradient_accumulation={accumulation}",
        "training.max_steps=1",
        "training.group_by_length=false",
        "training.max_grad_norm=1e9",
    )
    capture = Capture()
    model = prepared(method, kind, dropout=0.0)
    trainer = make_trainer(chosen, model, task, tmp_path, default_data_collator, [capture], splits={})
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.train()
    return capture.gradients


@pytest.mark.parametrize(
    "method", [meft_settings("meft1"), meft_settings("meft3"), LoraSettings(name="lora", learning_rate=1e-3)]
)
@pytest.mark.parametrize("kind", ["bert", "opt-answers"])
@pytest.mark.thin(4)
def test_two_batches_of_eight_equal_one_of_sixteen(method, kind, tmp_path):
    parts = step_gradients(method, tmp_path / "a", 8, 2, kind)
    whole = step_gradients(method, tmp_path / "b", 16, 1, kind)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize("method", [meft_settings("meft1"), LoraSettings(name="lora", learning_rate=1e-3)])
def test_the_loss_of_accumulated_passes_is_the_mean_over_their_tokens(method, tmp_path):
    model = prepared(method, "opt-answers", dropout=0.0)
    inputs = batch("opt-answers", rows=4)
    data = Dataset.from_dict({name: tensor.tolist() for name, tensor in inputs.items()})
    task = TaskData(Head.lm, (), data, {"validation": EvalSplit(data, None)}, "loss", None, {})
    trainer = make_trainer(settings(), model, task, tmp_path, default_data_collator, splits={})
    passes = [{name: tensor[place] for name, tensor in inputs.items()} for place in (slice(0, 1), slice(1, 4))]
    items = trainer._get_num_items_in_batch(passes, "cpu")
    assert items == (inputs["labels"][:, 1:] != IGNORED).sum()
    trainer.current_gradient_accumulation_steps = len(passes)
    found = sum(trainer.training_step(model, part, items).item() for part in passes)
    assert found == pytest.approx(model(**inputs).loss.item(), rel=1e-6)
    predicted = trainer.prediction_step(model, dict(inputs), False)
    assert predicted[0].item() == pytest.approx(found, rel=1e-6)
    assert [part.shape for part in predicted[1]] == [(4,)] * 3


def test_what_a_split_asks_the_model_itself_is_computed_as_predictions_are(tmp_path):
    data = Dataset.from_dict({name: tensor.tolist() for name, tensor in batch("opt-answers").items()})
    seen = {"by_model": lambda model: {"cast": torch.is_autocast_enabled("cpu"), "training": model.training}}
    task = TaskData(Head.lm, (), data, {"validation": EvalSplit(data, lambda predicted: {}, **seen)}, "a", None, {})
    model = prepared(LoraSettings(name="lora", learning_rate=1e-3), "opt-answers")
    trainer = make_trainer(settings("training.precision=bf16"), model, task, tmp_path, default_data_collator)
    metrics = trainer.evaluate(task.evaluation["validation"].rows, metric_key_prefix="eval_validation")
    assert metrics["eval_validation_cast"]
    assert not metrics["eval_validation_training"]


@pytest.mark.parametrize(
    ("method", "factor", "decays"),
    [
        (meft_settings("meft1", merge="learned"), "learned_merge", "adapter.up.weight"),
        (Ia3Settings(name="ia3", learning_rate=1e-3), "ia3_l", "classifier"),
        (
            LoraSettings(name="dora", learning_rate=1e-3, decomposed=True),
            "lora_magnitude_vector",
            "lora_B.default.weight",
        ),
    ],
)
def test_weight_decay_does_not_pull_factors_away_from_pre_training(method, factor, decays, tmp_path):
    model = prepared(method)
    data = Dataset.from_dict({"labels": [0]})
    task = TaskData(Head.classification, (), data, {"validation": EvalSplit(data, None)}, "accuracy", None, {})
    trainer = make_trainer(settings(), model, task, tmp_path, default_data_collator, [], splits={})
    decaying = trainer.get_decay_parameter_names(model)
    assert any(factor in name for name, each in model.named_parameters() if each.requires_grad)
    assert any(decays in name for name in decaying)
    assert not any(factor in name for name in decaying)
