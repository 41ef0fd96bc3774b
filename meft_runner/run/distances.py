"""How far apart the outputs of two models are: a prepared and the pre-trained one, a coupled and the plain one."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction

from meft_runner.backbones import inner_model
from meft_runner.methods.layers import plain_layers
from meft_runner.records.schema import Plain
from meft_runner.run.trainer import MeftTrainer
from meft_runner.tasks import TaskData

# What the heads return for their rows: classes or grades, the two ends of a span, the likelihoods of answers.
_OUTPUTS = ("logits", "start_logits", "end_logits", "log_likelihoods")
_FILLING = -100.0  # the Trainer's, where it joins outputs of several lengths to one array


class Outputs(NamedTuple):
    """What a model makes of some rows, each in one vector, float64, on the CPU.

    Attributes:
        head: all outputs of its head.
        hidden: its last hidden states, at every position.
    """

    head: Tensor
    hidden: Tensor


@torch.no_grad()
def first_outputs(model: nn.Module, batch: Mapping[str, Tensor], autocast: torch.dtype | None = None) -> Outputs:
    """Returns the outputs of a model for some rows, without dropout; nothing is drawn and nothing is changed.

    Args:
        model: before or after it was prepared for training.
        batch: inputs with labels, on any device.
        autocast: the dtype that weights of half precision are computed with in, None for float32.
    """
    device = next(model.parameters()).device
    inner = inner_model(model)
    hidden: list[Tensor] = []
    hook = inner.base_model.register_forward_hook(lambda module, args, output: hidden.append(output[0]))
    try:
        enabled = autocast is not None
        with mode(model, training=False), torch.autocast(device.type, dtype=autocast, enabled=enabled):
            outputs = model(**{name: tensor.to(device) for name, tensor in batch.items()})
    finally:
        hook.remove()
    head = torch.cat([outputs[name].flatten() for name in _OUTPUTS if name in outputs])
    return Outputs(head.cpu().double(), torch.cat([each.flatten() for each in hidden]).cpu().double())


def relative_distance(found: Tensor, reference: Tensor) -> float | None:
    """Returns |found - reference| / |reference| of two (N,) vectors, None where that is no finite number."""
    return finite((found - reference).norm() / reference.norm())


def compare_with_plain(trainer: MeftTrainer, data: TaskData) -> Plain:
    """Runs the development rows through the trained model, its layers coupled and plain.

    Args:
        trainer: with a model whose layers run in a delay coupling.
        data: the task, the first of whose development splits is run.
    """
    split = next(iter(data.evaluation.values()))

    def predicted() -> tuple[Tensor, float | None]:
        found = trainer.predict(split.rows)
        parts = found.predictions if isinstance(found.predictions, tuple) else (found.predictions,)
        outputs = [torch.from_numpy(np.asarray(part)).flatten() for part in parts]
        vector = torch.cat([output for output in outputs if output.is_floating_point()]).double()  # no counts of tokens
        assert found.label_ids is not None
        score = split.score(EvalPrediction(found.predictions, found.label_ids))[data.metric]
        return vector, score if math.isfinite(score) else None

    coupled, coupled_score = predicted()
    with plain_layers(trainer.model):
        plain, score = predicted()
    given = (coupled != _FILLING) | (plain != _FILLING)
    distance = relative_distance(coupled[given], plain[given])
    return Plain(output_distance=distance, score=score, coupled_score=coupled_score)


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Puts a model into training or evaluation mode, and back."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)


def finite(value: Tensor) -> float | None:
    """Returns a scalar as a number, None where it is not finite."""
    number = value.item()
    return number if math.isfinite(number) else None
