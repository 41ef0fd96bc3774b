"""The adapter of MEFT."""

from torch import Tensor, nn
from transformers.activations import ACT2FN

from meft_runner.reversible import BlockInputs, TokenwiseModule

_INITIAL_STD = 0.02  # the paper: small enough that the model starts where pre-training ended


class Adapter(TokenwiseModule):
    """Linear(H, r) -> activation -> dropout -> Linear(r, H), without residual.

    Weights start as N(0, 0.02^2), biases as 0 (arXiv 2306.00477).

    Args:
        hidden_size: H.
        inner_size: r.
        activation: name of the backbone's activation, as transformers knows it.
        dropout: probability.
    """

    def __init__(self, hidden_size: int, inner_size: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, inner_size)
        self.activation = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(inner_size, hidden_size)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=_INITIAL_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, inputs: BlockInputs | None = None) -> Tensor:
        """Returns the adapter's output, (B, S, H); `inputs` are those of a block and not read."""
        return self.up(self.dropout(self.activation(self.down(x))))
