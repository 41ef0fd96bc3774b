import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from meft_runner.reversible import BlockInputs, Composed, TokenwiseModule
from meft_runner.reversible.chunks import Chunks
from tests.helpers.toy import Mix


class Double(TokenwiseModule):
    def forward(self, x, inputs):
        return 2 * x


@given(rows=st.integers(1, 9), length=st.integers(1, 9), chunks=st.one_of(st.none(), st.integers(1, 12)))
@pytest.mark.parametrize("tokenwise", [False, True])
def test_chunks_cover_a_batch_once(tokenwise, rows, length, chunks):
    x, y = torch.zeros(rows, length, 4), torch.zeros(rows, length, 2)
    cut = list(Chunks.of(x.shape, chunks).cut(Double() if tokenwise else nn.Identity(), x, None, y))
    for _, (x_chunk, nothing, y_chunk) in cut:
        assert nothing is None
        assert x_chunk.shape[:2] == y_chunk.shape[:2]
        assert x_chunk.shape[1] == (1 if tokenwise else length)
        x_chunk.add_(1)
        y_chunk.add_(1)
    assert (x == 1).all()  # views: what is written in a chunk is written in the batch
    assert (y == 1).all()
    assert len(cut) <= (chunks or 1)


def test_chunks_of_the_usual_size():
    assert Chunks.of(torch.Size([32, 128, 8]), None) == Chunks(rows=8, tokens=1024)
    assert Chunks.of(torch.Size([1, 2048, 8]), None) == Chunks(rows=1, tokens=1024)
    assert Chunks.of(torch.Size([4, 8, 8]), None) == Chunks(rows=4, tokens=32)


@pytest.mark.parametrize("rows", [1, 6])
def test_rotary_tensors_are_cut_where_rows_have_their_own_and_never_copied(rows):
    inputs = BlockInputs(cos=torch.randn(rows, 5, 4), sin=torch.randn(rows, 5, 4))
    place = slice(2, 4)
    for part in (inputs.rows(place), inputs.leaves(place)):
        for found, whole in ((part.cos, inputs.cos), (part.sin, inputs.sin)):
            assert torch.equal(found, whole if rows == 1 else whole[place])
            assert found.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_a_composed_function_in_chunks(chunks):
    mix = Mix(8, dropout=0.0)
    composed = Composed(mix, Double())
    x = torch.randn(3, 4, 8)
    found = Chunks.of(x.shape, chunks).evaluate(composed, x, BlockInputs())
    torch.testing.assert_close(found, 2 * mix(x, BlockInputs()))
