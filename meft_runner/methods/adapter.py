"""The adapter of MEFT."""

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from meft_runner.reversible import BlockInputs, TokenwiseModule

_INITIAL_STD = 0.02  # the paper: small enough that the model starts where pre-training ended


class Adapter(TokenwiseModule):
    """Linear(H, r) -> activation -> dropout -> Linear(r, H), without residual.

    Weights start as N(0, 0.02^2), biases as 0 (arXiv 2306.00477), unless told otherwise.

    Args:
        hidden_size: H.
        inner_size: r.
        activation: name of the backbone's activation, as transformers knows it.
        dropout: probability.
        factor: what the output is multiplied by.
        zero_start: whether the second matrix starts at zero.
    """

    def __init__(
        self,
        hidden_size: int,
        inner_size: int,
        activation: str,
        dropout: float,
        factor: float = 1.0,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, inner_size)
        self.activation = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(inner_size, hidden_size)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=_INITIAL_STD)
            nn.init.zeros_(linear.bias)
        self.factor = factor
        if zero_start:
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, inputs: BlockInputs | None = None) -> Tensor:
        """Returns the adapter's output, (B, S, H); `inputs` are those of a block and not read."""
        dtype = self.down.weight.dtype
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):  # beside weights of half precision
            return self._of(x.to(dtype)).to(x.dtype)
        return self._of(x)

    def _of(self, x: Tensor) -> Tensor:
        output = self.up(self.dropout(self.activation(self.down(x))))
        return output if self.factor == 1 else output * self.factor

    def waiting(self) -> list[nn.Parameter]:
        """Returns the parameters that no gradient reaches while the second matrix is zero."""
        return [] if self.up.weight.any() else list(self.down.parameters())
