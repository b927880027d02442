"""The square of all numbers: one block for each suffix, as large as its share, and no two of them meet."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from fusemap.qid import suffixes
from fusemap.view import hilbert


@pytest.mark.parametrize("order", [1, 2, 5, 6])
def test_the_curve_visits_every_cell_and_never_jumps(order: int) -> None:
    cells = [hilbert.place(order, at) for at in range(4**order)]
    assert len(set(cells)) == 4**order
    assert cells[0] == (0, 0)
    for (x, y), (next_x, next_y) in pairwise(cells):
        assert abs(x - next_x) + abs(y - next_y) == 1


def test_a_quarter_begins_like_the_whole() -> None:
    for order in range(1, 8):
        inner = {hilbert.place(order, at) for at in range(4 ** (order - 1))}
        assert inner == {(x, y) for x in range(2 ** (order - 1)) for y in range(2 ** (order - 1))}


@pytest.mark.parametrize("k", [0, 1, 5])
def test_each_suffix_has_a_block_of_its_own(k: int) -> None:
    codes = suffixes(60, k)[1:]
    side = 2 ** max((affix.length + 1) // 2 for affix in codes)
    taken: set[tuple[int, int]] = set()
    for affix in codes[:: 1 if side <= 64 else 7]:
        x, y, width, height = (Fraction(part) for part in hilbert.block(str(affix)))
        assert width * height == Fraction(1, 2**affix.length)
        cells = {
            (column, row)
            for column in range(int(x * side), int((x + width) * side))
            for row in range(int(y * side), int((y + height) * side))
        }
        assert not cells & taken
        taken |= cells


def test_numbers_are_counted_in_the_block_of_their_suffix() -> None:
    side = 1 << hilbert.ORDER
    for affix in suffixes(14)[1:]:
        numbers = np.arange(1, 5000, 7, dtype=np.uint64) << np.uint64(affix.length) | np.uint64(affix.bits)
        cells = hilbert.Cells(1)
        cells.add(numbers)
        assert cells.counts[0].sum() == len(numbers)
        x, y, width, height = hilbert.block(str(affix))
        for at in np.flatnonzero(cells.counts[0]).tolist():
            column, row = hilbert.place(hilbert.ORDER, at)
            assert x * side <= column < (x + width) * side
            assert y * side <= row < (y + height) * side


def test_closer_maps_count_what_ends_in_zeros() -> None:
    numbers = [0, 1, 4, 5, 12, 16, 48, 64, 2**63]
    cells = hilbert.Cells(3)
    cells.add(np.array(numbers, dtype=np.uint64))
    for zoom, counts in enumerate(cells.counts):
        want = [0] * hilbert.CELLS
        for number in numbers:
            if number and number % 4**zoom == 0:
                want[int(f"{number >> 2 * zoom & 4095:012b}"[::-1], 2)] += 1
        assert counts.tolist() == want


def test_letters_tell_the_size_of_a_count() -> None:
    cells = hilbert.Cells(2)
    for many in (1, 2, 3, 4, 511, 512, 1 << 20):
        cells.counts[0][many % 97] = many
    (first, second) = cells.letters()
    for many in (1, 2, 3, 4, 511, 512, 1 << 20):
        assert int(first[many % 97], 36) == many.bit_length()
    assert not first.endswith("0")
    assert second == ""


@pytest.mark.parametrize(("used", "count"), [(0, 1), (1, 1), (63, 1), (64, 4), (128, 4), (256, 5), (65535, 8)])
def test_as_many_maps_as_there_is_something_to_see(used: int, count: int) -> None:
    codes = suffixes(used)[1:]
    assert hilbert.levels(codes) == count
    if count > 1:
        assert codes[-1].bits % 4 ** (count - 1) == 0
        assert not any(affix.bits % 4**count == 0 for affix in codes)
