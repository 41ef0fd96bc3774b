"""The Trainer's side of the engine: accumulation, checks of the first step, checkpoints of trained weights."""

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback, default_data_collator

from meft_runner.config import Head, LoraSettings
from meft_runner.tasks import EvalSplit, TaskData
from tests.helpers.composed import settings
from tests.helpers.models import batch, meft_settings, prepared
from tests.helpers.training import make_trainer


class Capture(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def step_gradients(method, tmp_path, batch_size, accumulation):
    inputs = batch(rows=16, padding=None)
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
    model = prepared(method, dropout=0.0)
    trainer = make_trainer(chosen, model, task, tmp_path, default_data_collator, [capture], splits={})
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.train()
    return capture.gradients


@pytest.mark.parametrize(
    "method", [meft_settings("meft1"), meft_settings("meft3"), LoraSettings(name="lora", learning_rate=1e-3)]
)
def test_two_batches_of_eight_equal_one_of_sixteen(method, tmp_path):
    parts = step_gradients(method, tmp_path / "a", 8, 2)
    whole = step_gradients(method, tmp_path / "b", 16, 1)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())


def test_weight_decay_leaves_the_two_weights_of_a_learned_merge_alone(tmp_path):
    model = prepared(meft_settings("meft1", merge="learned"))
    data = Dataset.from_dict({"labels": [0]})
    task = TaskData(Head.classification, (), data, {"validation": EvalSplit(data, None)}, "accuracy", None, {})
    trainer = make_trainer(settings(), model, task, tmp_path, default_data_collator, [], splits={})
    decaying = trainer.get_decay_parameter_names(model)
    assert any(name.endswith("adapter.up.weight") for name in decaying)
    assert not any("learned_merge" in name for name in decaying)
