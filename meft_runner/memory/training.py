"""What a training step is made of, as a run's Trainer makes it: the same for real tensors and for fake ones."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn


class TrainingStep(NamedTuple):
    """A model with what trains it.

    Attributes:
        model: prepared.
        optimizer: the Trainer's, over what trains.
        forward: runs the model on a batch and returns the loss.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    forward: Callable[[], Tensor]

    @property
    def trainable_parameters(self) -> int:
        """How many numbers train."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)


def training_step(
    model: nn.Module, batch: Mapping[str, Tensor], autocast: torch.dtype | None, learning_rate: float = 0.0
) -> TrainingStep:
    """Returns a step with the Trainer's optimizer, fused AdamW.

    Args:
        model: a prepared model.
        batch: its inputs with labels, on the same device.
        autocast: the dtype of autocast, None for float32.
        learning_rate: 0 makes every allocation of a training step and changes no weight.
    """
    device = next(model.parameters()).device

    def forward() -> Tensor:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            return model(**batch).loss

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return TrainingStep(model, torch.optim.AdamW(trained, lr=learning_rate, fused=True), forward)
