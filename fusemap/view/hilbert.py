"""The 64-bit space as a square, by a Hilbert curve, with numbers turned end for end.

Two things make this picture honest. Turned end for end, numbers that end in one suffix lie together, since a suffix is
then a prefix; and a Hilbert curve puts what lies together on a line together in the square. So each affix is one block,
a square or half of one, whose area is its share of the space, and no two blocks touch the same number.

The curve's beginning is the corner at (0, 0), at every scale. That is where ever longer suffixes begin (they end in
ever more zeros), so looking closer at that corner shows the devices that came later.

The turn of the curve's quarters follows "Hilbert curve" in en.wikipedia.org (d2xy).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fusemap.qid import Affix

ORDER: Final = 6
"""A map has 2^ORDER cells on each side."""
CELLS: Final = 1 << 2 * ORDER
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_U64: Final = np.uint64

Counts = npt.NDArray[np.int64]


class Block(NamedTuple):
    """A rectangle in the unit square: its corner nearest to (0, 0), width and height."""

    x: float
    y: float
    width: float
    height: float


def place(order: int, at: int) -> tuple[int, int]:
    """Column and row of cell `at` along a curve with 2^order cells on each side (all int).

    >>> [place(1, at) for at in range(4)]
    [(0, 0), (0, 1), (1, 1), (1, 0)]
    """
    x = y = 0
    for scale in range(order):
        side = 1 << scale
        right = at >> 1 & 1
        up = (at ^ right) & 1
        if not up:
            if right:
                x, y = side - 1 - x, side - 1 - y
            x, y = y, x
        x += side * right
        y += side * up
        at >>= 2
    return x, y


def block(suffix: str) -> Block:
    """Where the numbers lie that end in `suffix`, bits as a string of 0 and 1.

    >>> block("1"), block("00")
    (Block(x=0.5, y=0.0, width=0.5, height=1.0), Block(x=0.0, y=0.0, width=0.5, height=0.5))
    """
    order = (len(suffix) + 1) // 2
    first = int(suffix[::-1], 2)
    cells = [place(order, first)]
    if len(suffix) % 2:
        cells = [place(order, 2 * first), place(order, 2 * first + 1)]
    (left, right), (low, high) = ((min(of), max(of) + 1) for of in zip(*cells, strict=True))
    side = 1 << order
    return Block(left / side, low / side, (right - left) / side, (high - low) / side)


def levels(suffixes: Iterable[Affix]) -> int:
    """How many maps, each of the first quarter of the one before, it takes to come close to all of these.

    Further ones would have nothing on them: there the numbers end in more zeros than any suffix.
    """
    zeros = [(affix.bits & -affix.bits).bit_length() - 1 for affix in suffixes if affix.length > 2 * ORDER]
    return 1 + max(zeros, default=0) // 2


class Cells:
    """Counts numbers by cell, on `count` maps. `letters` is what the page gets of each."""

    def __init__(self, count: int) -> None:
        self.counts: list[Counts] = [np.zeros(CELLS, dtype=np.int64) for _ in range(count)]

    def add(self, numbers: npt.NDArray[np.uint64]) -> None:
        """Counts an array of numbers. 0 is none: fusemap.census.numbers."""
        numbers = numbers[numbers != 0]
        for total in self.counts:
            total += np.bincount(_TURNED[(numbers & _U64(CELLS - 1)).astype(np.int64)], minlength=CELLS)
            numbers = numbers[numbers & _U64(3) == 0] >> _U64(2)

    def letters(self) -> list[str]:
        """A string for each map: for each cell the bit length of its count, zeros at the end left out."""
        return ["".join(_DIGITS[count.bit_length()] for count in total.tolist()).rstrip("0") for total in self.counts]


def _turned() -> Counts:
    """The numbers of 2 * ORDER bits, each turned end for end."""
    numbers = np.arange(CELLS, dtype=np.int64)
    turned = np.zeros(CELLS, dtype=np.int64)
    for bit in range(2 * ORDER):
        turned |= (numbers >> bit & 1) << 2 * ORDER - 1 - bit
    return turned


_TURNED: Final = _turned()
