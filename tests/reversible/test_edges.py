"""Functions and batches at the edge of what a stack may be given, against ordinary autograd, bit for bit."""

import pytest
import torch
from torch import nn

from meft_runner.reversible import BlockInputs, ReversibleBlock, ReversibleStack, Stage, TokenwiseModule
from tests.helpers.toy import Mix, coupling, hidden_states, stack


class Untrained(nn.Module):
    """Has no graph: nothing of it trains, and its argument is detached."""

    def forward(self, x, inputs):
        return x.detach().tanh()


class Transposed(nn.Module):
    """Returns what is not contiguous."""

    def __init__(self, hidden):
        super().__init__()
        self.inner = nn.Linear(hidden, hidden)

    def forward(self, x, inputs):
        return self.inner(x).transpose(0, 1).contiguous().transpose(0, 1)


class Shifted(nn.Module):
    """Adds a parameter of the batch's own shape, whose gradient is that of the result: the same tensor in autograd."""

    def __init__(self, *shape):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(shape))

    def forward(self, x, inputs):
        return x + self.shift


class Shared(nn.Module):
    """Three stages that all read one weight, which another block reads too."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def stages(self):
        return (
            Stage(lambda x, inputs: x @ self.weight, True, self),
            Stage(lambda y, inputs: y.cumsum(1) @ self.weight, False, self),
            Stage(lambda x, y, inputs: (x + y) @ self.weight, True, self),
        )


class Double(TokenwiseModule):
    def forward(self, x, inputs):
        return x * 2


def unchanged(output):
    return output


def compared(make, hidden, inputs=None, dtype=None, tie=None, tolerance=0.0, after=unchanged, **kwargs):
    """Holds a stack's output and gradients in `exact` against `stored`; `after` is what follows the stack."""
    results = []
    for mode in ("exact", "stored"):
        torch.manual_seed(0)
        module = ReversibleStack(make(), tie or coupling(), mode, **kwargs).to(dtype)
        leaf = hidden.clone().requires_grad_()
        torch.manual_seed(5)
        output = after(module(leaf, inputs))
        output.square().sum().backward()
        results.append((output, leaf.grad, *(parameter.grad for parameter in module.parameters())))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def blocks(f, g=None, count=3):
    return lambda: [ReversibleBlock(f(), (g or f)(), f"layer {index}") for index in range(count)]


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("f", [Untrained, lambda: Transposed(8), Double], ids=["untrained", "transposed", "double"])
def test_functions(f, chunks):
    compared(blocks(f, lambda: Mix(8)), hidden_states(), chunks=chunks)
    compared(blocks(lambda: Mix(8), f), hidden_states(), chunks=chunks)


@pytest.mark.parametrize("scale", ["1/10", "1"])
def test_a_parameter_of_the_shape_of_the_batch(scale):
    compared(blocks(lambda: Shifted(1, 6, 8)), hidden_states(rows=1), tie=coupling(scale, scale))


@pytest.mark.parametrize("chunks", [1, 5, 24])
def test_a_weight_shared_by_stages_and_blocks(chunks):
    def make():
        weight = nn.Parameter(torch.randn(8, 8) / 8)
        return blocks(lambda: Shared(weight), lambda: Mix(8))()

    compared(make, hidden_states(), chunks=chunks, tolerance=5e-6)  # the order of three sums differs


@pytest.mark.parametrize("shape", [(0, 6, 8), (4, 0, 8)])
@pytest.mark.parametrize("mode", ["exact", "float", "stored"])
def test_a_batch_without_tokens_has_gradients_of_zero(mode, shape):
    module = stack(mode)
    hidden = torch.zeros(shape, requires_grad=True)
    output = module(hidden)
    output.sum().backward()
    assert output.shape == hidden.grad.shape == shape
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_without_autocast(dtype):
    compared(blocks(lambda: Mix(8)), hidden_states(dtype=dtype), dtype=dtype, chunks=3)


@pytest.mark.parametrize(
    "form",
    [
        lambda h: h.transpose(0, 1),
        lambda h: h[:1].expand(4, -1, -1),
        lambda h: h[::2, 1:],
        lambda h: h[:, :1],
    ],
)
def test_hidden_states_that_are_views(form):
    compared(blocks(lambda: Mix(8)), form(hidden_states()), chunks=3)


@pytest.mark.parametrize(
    "after", [lambda output: output.mul_(2), lambda output: output[:, 0].add_(1), lambda output: output.tanh_()]
)
def test_an_output_that_is_changed_in_place(after):
    compared(blocks(lambda: Mix(8)), hidden_states(), after=after)


def test_block_inputs_of_one_row_and_of_all():
    states = hidden_states(rows=1, length=3, seed=7)
    mask = (hidden_states(seed=8)[..., :1] > 0).float()
    for rows in (1, 4):
        given = BlockInputs(mask[:rows], states.expand(rows, -1, -1))
        compared(blocks(lambda: Mix(8)), hidden_states(), given, chunks=4)
