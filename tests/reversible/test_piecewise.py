import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from meft_runner.reversible import BlockInputs, Composed, TokenwiseModule
from meft_runner.reversible.piecewise import Pieces
from tests.helpers.toy import Mix


class Double(TokenwiseModule):
    def forward(self, x, inputs):
        return 2 * x


@given(rows=st.integers(1, 9), length=st.integers(1, 9), chunks=st.one_of(st.none(), st.integers(1, 12)))
@pytest.mark.parametrize("tokenwise", [False, True])
def test_pieces_cover_a_batch_once(tokenwise, rows, length, chunks):
    x, y = torch.zeros(rows, length, 4), torch.zeros(rows, length, 2)
    pieces = list(Pieces.of(x.shape, chunks).cut(Double() if tokenwise else nn.Identity(), x, None, y))
    for _, (x_piece, nothing, y_piece) in pieces:
        assert nothing is None
        assert x_piece.shape[:2] == y_piece.shape[:2]
        assert x_piece.shape[1] == (1 if tokenwise else length)
        x_piece.add_(1)
        y_piece.add_(1)
    assert (x == 1).all()  # views: what is written in a piece is written in the batch
    assert (y == 1).all()
    assert len(pieces) <= (chunks or 1)


def test_pieces_of_the_usual_size():
    assert Pieces.of(torch.Size([32, 128, 8]), None) == Pieces(rows=8, tokens=1024)
    assert Pieces.of(torch.Size([1, 2048, 8]), None) == Pieces(rows=1, tokens=1024)
    assert Pieces.of(torch.Size([4, 8, 8]), None) == Pieces(rows=4, tokens=32)


@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_a_composed_function_in_pieces(chunks):
    mix = Mix(8, dropout=0.0)
    composed = Composed(mix, Double())
    x = torch.randn(3, 4, 8)
    found = Pieces.of(x.shape, chunks).evaluate(composed, x, BlockInputs())
    torch.testing.assert_close(found, 2 * mix(x, BlockInputs()))
