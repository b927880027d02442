"""The Exp-Golomb codes: their digits, that they can be told apart, and the way back."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemap.qid import Affix, decode, kraft, prefix, suffix

from .models import golomb
from .strategies import orders

ORDERS = range(9)


@cache
def codes(k: int) -> list[Affix]:
    """All suffixes of an order, the full map's included."""
    return [suffix(n, k) for n in range(1, 65537)]


many_zeros = st.builds(lambda number, zeros: number << zeros, st.integers(1, 2**20), st.integers(0, 44))

# (index, suffix with k=0, suffix with k=5), from running QEMU's own functions.
TABLE = [
    (1, "1", "000001"),
    (2, "010", "100001"),
    (3, "110", "010001"),
    (4, "00100", "110001"),
    (5, "10100", "001001"),
    (6, "01100", "101001"),
    (7, "11100", "011001"),
    (8, "0001000", "111001"),
    (9, "1001000", "000101"),
    (12, "0011000", "110101"),
    (65533, "1011111111111111000000000000000", "0011100000000000100000000000"),
    (65534, "0111111111111111000000000000000", "1011100000000000100000000000"),
    (65535, "1111111111111111000000000000000", "0111100000000000100000000000"),
]


@pytest.mark.parametrize(("n", "k0", "k5"), TABLE)
def test_suffixes_are_qemus(n: int, k0: str, k5: str) -> None:
    for k, digits in ((0, k0), (5, k5)):
        assert str(suffix(n, k)) == digits
        assert suffix(n, k) == (int(digits, 2), len(digits))
        assert str(prefix(n, k)) == digits[::-1]


@pytest.mark.parametrize("k", ORDERS)
def test_every_code_decodes_to_its_index(k: int) -> None:
    for n, (bits, length) in enumerate(codes(k), 1):
        assert decode(bits, k) == (n, length)


@pytest.mark.parametrize("k", ORDERS)
def test_codes_are_the_definitions(k: int) -> None:
    for n in (*range(1, 2050), *range(2050, 65537, 37), *range(65500, 65537)):
        assert str(codes(k)[n - 1]) == golomb(n, k)[::-1] == str(prefix(n, k))[::-1]


@pytest.mark.parametrize("k", ORDERS)
def test_no_code_is_the_tail_of_another(k: int) -> None:
    # Sorted by their digits read backwards, a tail stands right before one of the codes that end in it.
    backwards = sorted(str(code)[::-1] for code in codes(k))
    assert not any(b.startswith(a) for a, b in pairwise(backwards))


@pytest.mark.parametrize("k", ORDERS)
def test_codes_fit_into_the_space_of_numbers(k: int) -> None:
    lengths = [code.length for code in codes(k)]
    assert lengths == sorted(lengths)
    assert kraft(lengths) == sum(Fraction(lengths.count(length), 2**length) for length in set(lengths))
    assert kraft(lengths) <= 1


def test_kraft_of_nothing_and_of_everything() -> None:
    assert kraft([]) == 0
    assert kraft([1, 1]) == 1
    assert kraft([64] * 4) == Fraction(1, 2**62)


def test_lengths_span_what_the_orders_promise() -> None:
    assert [(suffix(1, k).length, suffix(65535, k).length) for k in (0, 5)] == [(1, 31), (6, 28)]
    assert suffix(65536).length == 33


@given(n=st.integers(1, 65536), k=orders, above=st.integers(0, 2**64))
def test_decode_does_not_mind_what_stands_above(n: int, k: int, above: int) -> None:
    code = suffix(n, k)
    assert decode(above << code.length | code.bits, k) == (n, code.length)


@given(path=st.one_of(st.integers(0, 2**64 - 1), many_zeros), k=orders)
def test_decode_answers_with_the_code_that_is_there_or_refuses(path: int, k: int) -> None:
    try:
        n, length = decode(path, k)
    except ValueError:
        # No code is there: every code has at most 16 - k zeros at its end, and an index up to 65536.
        zeros = len(f"{path:b}") - len(f"{path:b}".rstrip("0"))
        value = f"{path >> zeros:064b}"[::-1][: zeros + 1 + k]
        assert path == 0 or zeros > 16 - k or int(value, 2) - 2**k + 1 > 65536
    else:
        assert suffix(n, k) == (path & (1 << length) - 1, length)


@pytest.mark.parametrize("k", ORDERS)
def test_the_code_after_the_last_is_refused(k: int) -> None:
    assert decode(int(golomb(65536, k)[::-1], 2), k)[0] == 65536
    with pytest.raises(ValueError, match="does not end in the suffix of any index"):
        decode(int(golomb(65537, k)[::-1], 2), k)


@pytest.mark.parametrize("path", [0, -1, -2, 1 << 63, 1 << 17])
def test_numbers_without_a_suffix_are_refused(path: int) -> None:
    with pytest.raises(ValueError, match="does not end in the suffix of any index"):
        decode(path)


@pytest.mark.parametrize("n", [-1, 0, 65537])
def test_indices_out_of_range_are_refused(n: int) -> None:
    for code in (prefix, suffix):
        with pytest.raises(ValueError, match=f"1 to 65536, not {n}"):
            code(n)


@pytest.mark.parametrize("k", [-1, 9])
def test_orders_out_of_range_are_refused(k: int) -> None:
    for code in (prefix, suffix, decode):
        with pytest.raises(ValueError, match=f"0 to 8, not {k}"):
            code(1, k)
