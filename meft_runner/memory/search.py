"""The largest size whose memory is within a budget, found with few predictions."""

from collections.abc import Callable
from typing import NamedTuple


class Size(NamedTuple):
    """The largest size that fits.

    Attributes:
        number: rows or tokens; 0 where none fits.
        source: predicted, extrapolated from smaller ones, or the limit of what there is.
    """

    number: int
    source: str


def largest(peak: Callable[[int], int], budget: int, known: int | None = None, limit: int | None = None) -> Size:
    """Returns the largest size whose peak is within a budget.

    Memory grows with the size, evenly or faster. Where it grows evenly, a line through two predictions leads to the
    answer; where it grows faster, halving does, so the two take turns.

    Args:
        peak: predicts the bytes that a size needs.
        budget: bytes.
        known: the largest size that is predicted, where memory grows evenly; beyond, the line is followed.
        limit: the largest size there is; one of the two is given.
    """
    top = max(known or limit or 0, 2)
    points = {size: peak(size) for size in (1, 2)}
    if points[1] > budget:
        return Size(0, "predicted")
    low, high, halving = 1, top + 1, False
    while high - low > 1:
        guess = (low + high) // 2 if halving else _crossing(points, low, budget)
        guess = min(max(guess, low + 1), high - 1)
        points[guess] = peak(guess)
        low, high = (guess, high) if points[guess] <= budget else (low, guess)
        halving = not halving
    if low < top:
        return Size(low, "predicted")
    return Size(low, "limit") if limit else Size(_crossing(points, low, budget), "extrapolated")


def _crossing(points: dict[int, int], low: int, budget: int) -> int:
    """Returns where the line through two points reaches the budget: the largest that fits, and its neighbour above.

    Where there is none above, the one below takes its place.
    """
    above, below = [size for size in points if size > low], [size for size in points if size < low]
    other = min(above) if above else max(below)
    slope = max(1, (points[other] - points[low]) / (other - low))
    return int(low + (budget - points[low]) / slope)
