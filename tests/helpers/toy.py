"""Blocks of a few lines, for tests of the engine alone."""

from fractions import Fraction

import torch
from torch import nn

from meft_runner.reversible import Coupling, ReversibleBlock, ReversibleStack


class Mix(nn.Module):
    """A residual MLP with dropout and, where given, attention-like reading of masks and encoder states."""

    def __init__(self, hidden, dropout=0.1):
        super().__init__()
        self.inner = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x, inputs):
        y = self.dropout(torch.tanh(self.inner(x)))
        if inputs.attention_mask is not None:
            y = y * inputs.attention_mask
        if inputs.encoder_states is not None:
            y = y + inputs.encoder_states.mean(dim=1, keepdim=True)
        return self.norm(x + y)


def coupling(scale_1="1/10", scale_2="1", swap=True, merge=(0.5, 0.5), **mus):
    return Coupling(Fraction(scale_1), Fraction(scale_2), swap, merge, **mus)


def stack(mode="exact", layers=4, hidden=8, dropout=0.1, seed=0, tie=None, **kwargs):
    torch.manual_seed(seed)
    blocks = [ReversibleBlock(Mix(hidden, dropout), Mix(hidden, dropout), f"layer {i}") for i in range(layers)]
    return ReversibleStack(blocks, tie or coupling(), mode, **kwargs)


def hidden_states(rows=4, length=6, hidden=8, seed=1, dtype=torch.float32):
    return torch.randn(rows, length, hidden, generator=torch.Generator().manual_seed(seed)).to(dtype)
