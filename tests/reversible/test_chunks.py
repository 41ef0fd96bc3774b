import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.reversible import BlockInputs, ReversibleBlock, ReversibleStack, Stage, TokenwiseModule
from meft_runner.reversible.chunks import Chunks, inputs_of_piece, piece
from meft_runner.reversible.evaluation import Evaluation
from meft_runner.reversible.stages import stages_of
from tests.helpers.toy import Attention, Mix, coupling, hidden_states


class Double(TokenwiseModule):
    def forward(self, x, inputs):
        return 2 * x


class AsOne(torch.nn.Module):
    """A function of several stages, without saying so."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, inputs):
        return self.function(x, inputs)


def evaluated(function, x, inputs=None, chunks=None):
    cut = Chunks.of(x.shape, chunks)
    return Evaluation(cut, inputs or BlockInputs(), lambda: None).run(function, x.shape, lambda place: x[place])


@given(rows=st.integers(1, 9), length=st.integers(1, 9), chunks=st.one_of(st.none(), st.integers(1, 12)))
@pytest.mark.parametrize("function", [Double(), Mix(4)], ids=["token-wise", "whole rows"])
def test_pieces_cover_a_batch_once(function, rows, length, chunks):
    x = torch.zeros(rows, length, 4)
    cut = Chunks.of(x.shape, chunks)
    (stage,) = cut.stages(function, length)
    pieces = 0
    for place in cut.row_places([stage], rows):
        of_rows = x[place]
        for tokens in cut.token_places(stage, of_rows.shape):
            piece(of_rows, tokens).add_(1)  # a view: what is written in a piece is written in the batch
            pieces += 1
    assert (x == 1).all()
    assert pieces <= (chunks or 1)


def test_chunks_of_the_usual_size():
    assert Chunks.of(torch.Size([32, 128, 8]), None) == Chunks(rows=8, tokens=1024)
    assert Chunks.of(torch.Size([1, 2048, 8]), None) == Chunks(rows=1, tokens=1024)
    assert Chunks.of(torch.Size([4, 8, 8]), None) == Chunks(rows=4, tokens=32)
    assert Chunks.of(torch.Size([1, 2048, 4096]), None) == Chunks(rows=1, tokens=512)


def test_tokens_are_cut_evenly():
    cut = Chunks(rows=2, tokens=6)
    places = cut.token_places(stages_of(Double())[0], torch.Size([2, 4, 8]))
    assert [place.stop - place.start for place in places] == [4, 4]


@pytest.mark.parametrize("rows", [1, 6])
def test_rotary_tensors_are_cut_where_rows_have_their_own_and_never_copied(rows):
    inputs = BlockInputs(cos=torch.randn(rows, 5, 4), sin=torch.randn(rows, 5, 4))
    place = slice(2, 4)
    part = inputs.rows(place)
    for found, whole in ((part.cos, inputs.cos), (part.sin, inputs.sin)):
        assert torch.equal(found, whole if rows == 1 else whole[place])
        assert found.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


@pytest.mark.parametrize("own", [1, 3])
def test_a_piece_gets_the_inputs_of_its_tokens_alone(own):
    inputs = BlockInputs(attention_mask=torch.ones(3, 1, 1, 5), cos=torch.randn(own, 5, 4))
    stage = stages_of(Double())[0]
    found = inputs_of_piece(stage, inputs, slice(4, 9), torch.Size([3, 5, 8]))
    assert found.attention_mask is None
    assert torch.equal(found.cos, inputs.cos.expand(3, 5, 4).reshape(15, 1, 4)[4:9])
    assert inputs_of_piece(stage, inputs, slice(0, 15), torch.Size([3, 5, 8])).cos is inputs.cos


def test_inputs_of_tokens_that_are_trained_are_refused():
    inputs = BlockInputs(cos=torch.randn(1, 5, 4, requires_grad=True))
    with pytest.raises(ValueError, match="cos"):
        inputs.tokens(slice(0, 2), 1)


@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 50])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_function_in_stages_computes_what_it_does_at_once(rows, chunks):
    function = Attention(8, dropout=0.0)
    x, cos = torch.randn(rows, 12, 8), torch.rand(1, 12, 8)
    found = evaluated(function, x, BlockInputs(cos=cos), chunks)
    torch.testing.assert_close(found, function(x, BlockInputs(cos=cos)))


def gradients_of(mode, function, rows, chunks, wanted):
    torch.manual_seed(0)
    blocks = [ReversibleBlock(function(), Mix(8), f"layer {index}") for index in range(3)]
    stack = ReversibleStack(blocks, coupling(mu_1=0.9), mode, chunks=chunks)
    hidden = hidden_states(rows=rows, length=12).requires_grad_(wanted)
    torch.manual_seed(5)
    output = stack(hidden, BlockInputs(cos=torch.rand(1, 12, 8)))
    output.square().sum().backward()
    assert stack.monitor.mismatches == 0
    return output.detach(), [p.grad for p in stack.parameters()] + ([hidden.grad] if wanted else [])


@pytest.mark.parametrize("wanted", [True, False], ids=["hidden learns", "hidden frozen"])
@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 8, 50])
@pytest.mark.parametrize("rows", [1, 3])
def test_long_and_short_rows_get_the_gradients_of_stored_activations(rows, chunks, wanted):
    """Bit for bit, with dropout in every stage; long rows have four pieces and more."""
    output, found = gradients_of("exact", lambda: Attention(8), rows, chunks, wanted)
    expected_output, expected = gradients_of("stored", lambda: Attention(8), rows, chunks, wanted)
    assert torch.equal(output, expected_output)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_stages_change_no_gradient():
    _, found = gradients_of("exact", lambda: Attention(8, dropout=0.0), 2, 24, True)
    _, expected = gradients_of("exact", lambda: AsOne(Attention(8, dropout=0.0)), 2, 1, True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_stages_of_a_short_row_are_computed_once_more_only():
    calls = []
    function = Attention(8)
    read = function.read
    function.read = lambda *args: calls.append(args[0].shape) or read(*args)
    for chunks, expected in ((1, 2), (3, 2), (6, 18)):  # once in forward; long rows twice in backward, in pieces
        stack = ReversibleStack([ReversibleBlock(function, None, "layer")], coupling(merge=(0.0, 1.0)), chunks=chunks)
        calls.clear()
        stack(hidden_states(rows=1, length=12), BlockInputs(cos=torch.rand(1, 12, 8))).sum().backward()
        assert len(calls) == expected


def test_stages_of_a_module_without_any():
    assert stages_of(Double())[0].tokenwise
    mix = Mix(4)
    assert stages_of(mix) == (Stage(mix, False, mix),)
