"""How the two streams of a reversible block are tied."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Weights:
    """The two weights of a stream's next state, y = scale * x + mu * increment.

    Attributes:
        scale: lambda or beta, what goes on of the stream.
        mu: what is taken of the increment; 1 in the paper, 1 - scale keeps the stream's mean.
    """

    scale: Fraction
    mu: float = 1.0


@dataclass(frozen=True)
class Coupling:
    """How the two streams of a block are tied (arXiv 2306.00477).

    Attributes:
        scale_1: lambda, the factor of x1.
        scale_2: beta, the factor of x2.
        swap: whether the outputs change places before the next block.
        merge: weights (w1, w2) of the two streams in the stack's output.
        mu_1: the factor of what is added to x1.
        mu_2: the factor of what is added to x2.
    """

    scale_1: Fraction
    scale_2: Fraction
    swap: bool
    merge: tuple[float, float] = (0.5, 0.5)
    mu_1: float = 1.0
    mu_2: float = 1.0

    @property
    def scales(self) -> tuple[Fraction, Fraction]:
        """Lambda and beta."""
        return self.scale_1, self.scale_2

    @property
    def halves(self) -> tuple[Weights, Weights]:
        """The weights of the first and of the second half."""
        return Weights(self.scale_1, self.mu_1), Weights(self.scale_2, self.mu_2)
