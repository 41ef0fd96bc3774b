"""torch.compile around and inside a stack: gradients stay those of ordinary autograd."""

import torch
from torch import nn

from tests.helpers.toy import hidden_states, stack


class Counting:
    """A compiler that leaves graphs as they are and keeps them."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, example_inputs):
        self.graphs.append(graph)
        return graph.forward


class Headed(nn.Module):
    """A stack and a head, as a model has them."""

    def __init__(self, mode):
        super().__init__()
        self.stack = stack(mode, layers=2)
        self.head = nn.Linear(8, 8)

    def forward(self, hidden):
        return self.head(self.stack(hidden))


def gradients(module, parameters):
    torch.manual_seed(5)
    return torch.autograd.grad(module(hidden_states()).square().sum(), list(parameters))


def test_a_model_is_compiled_around_its_stack():
    # Within the stack, a pass that is compiled without gradients may round otherwise than one compiled with them.
    compiler = Counting()
    found, expected = Headed("exact"), Headed("stored")
    torch._dynamo.reset()
    compiled = gradients(torch.compile(found, backend=compiler), found.parameters())
    assert all(map(torch.equal, compiled, gradients(expected, expected.parameters())))
    assert [sum(node.op == "call_function" for node in graph.graph.nodes) for graph in compiler.graphs] == [1]


def test_a_block_that_is_compiled_alone():
    compiler = Counting()
    found, expected = stack(layers=2), stack("stored", layers=2)
    torch._dynamo.reset()
    found.blocks[1].f.compile(backend=compiler)
    assert all(map(torch.equal, gradients(found, found.parameters()), gradients(expected, expected.parameters())))
    assert compiler.graphs
    assert found.monitor.mismatches == 0
