"""Blocks of a few lines, for tests of the engine alone."""

from fractions import Fraction

import torch
from torch import nn

from meft_runner.reversible import BlockInputs, Coupling, ReversibleBlock, ReversibleStack, Stage


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


class Attention(nn.Module):
    """Attention in stages, with dropout in each: queries, keys and values of a token; the row; what follows a token."""

    def __init__(self, hidden, dropout=0.1):
        super().__init__()
        self.project = nn.Linear(hidden, 3 * hidden)
        self.end = Mix(hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def read(self, x, inputs):
        q, k, v = self.dropout(self.project(x)).chunk(3, dim=-1)
        return q * inputs.cos, k * inputs.cos, v

    def attend(self, q, k, v, inputs):
        return self.dropout((q @ k.transpose(1, 2)).softmax(-1)) @ v

    def finish(self, x, context, inputs):
        return self.end(x + context, BlockInputs()) + x

    def stages(self):
        return Stage(self.read, True, self), Stage(self.attend, False, self), Stage(self.finish, True, self)

    def forward(self, x, inputs):
        return self.finish(x, self.attend(*self.read(x, inputs), inputs), inputs)
