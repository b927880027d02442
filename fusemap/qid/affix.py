"""Exponential-Golomb codes of order k, as prefixes and, mirrored, as suffixes.

Why these codes: a few devices should cost a few bits, yet tens of thousands must be possible. An Exp-Golomb
code grows with the index it stands for, and no code is the beginning of another; mirrored, no code is the end
of another. So `number << length | suffix` can be taken apart again whatever the number is, and the low bits
alone say where the suffix begins.

The arithmetic, for index n = 1, 2, 3, ...: v = n + 2^k - 1 is written in b = v.bit_length() bits, behind
b - 1 - k zeros. As v is at least 2^k, that is never negative, hence length = 2b - 1 - k. Mirrored, the zeros
come last, and the one that led v stands right above them. So the zeros at the end of a path, counted, give b,
and b gives the rest: that is the closed form which `decode` uses.

QEMU computes b by a floating-point log2() (expGolombEncode() in hw/9pfs/9p.c). Integers give the same b for
every index that it can reach, and owe nothing to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from typing import NamedTuple

__all__ = ["FULL_INDEX", "LAST_INDEX", "MAX_K", "Affix", "decode", "kraft", "prefix", "suffix", "suffixes"]

MAX_K = 8
"""The largest order k. Its shortest code has 9 bits already; more would be spent on devices nobody has."""

LAST_INDEX = 0xFFFF
"""The largest index that an entry can have: QEMU counts them in 16 bits (qp_affix_next in hw/9pfs/9p.h)."""

FULL_INDEX = 0x10000
"""The index whose code marks the numbers of the full map, as in QEMU's qid_path_fullmap()."""

_MAX_BITS = 17  # of the v of FULL_INDEX, for every k up to MAX_K
_ONE = 64  # Kraft sums are counted in units of 2^-64: no code is longer than the number it ends


class Affix(NamedTuple):
    """One code: its bits as an int, and their count. `str()` writes all of them, leading zeros included."""

    bits: int
    length: int

    def __str__(self) -> str:
        return f"{self.bits:0{self.length}b}"


def prefix(n: int, k: int = 0) -> Affix:
    """Return the Exp-Golomb-k code of index `n`, to be put in front of a number.

    `n` is an int from 1 to 65536 and `k` one from 0 to 8, else ValueError. Source: expGolombEncode() in
    QEMU's hw/9pfs/9p.c, which counts from 1 where the codes are usually counted from 0.

    >>> str(prefix(5)), str(prefix(5, k=2))
    ('00101', '01000')
    """
    check_k(k)
    if not 1 <= n <= FULL_INDEX:
        raise ValueError(f"an affix index must be from 1 to {FULL_INDEX}, not {n}")
    value = n + (1 << k) - 1
    return Affix(value, 2 * value.bit_length() - 1 - k)


def suffix(n: int, k: int = 0) -> Affix:
    """Return the code of index `n` to be put behind a number: `prefix(n, k)` mirrored.

    Arguments and errors as for `prefix`. Source: affixForIndex() and invertAffix() in QEMU's hw/9pfs/9p.c.

    >>> [str(suffix(n)) for n in (1, 2, 3, 4, 5)]
    ['1', '010', '110', '00100', '10100']
    """
    value, length = prefix(n, k)
    bits = value.bit_length()
    return Affix(_mirror(value, bits) << length - bits, length)


def suffixes(last: int, k: int = 0) -> list[Affix]:
    """Return `suffix(n, k)` for every index up to `last` (int, 0 to 65536) at position n; position 0 is empty.

    For whoever needs many: a table of sixty thousand entries is read in less time than its suffixes take one by
    one. ValueError as for `prefix`.
    """
    check_k(k)
    if not 0 <= last <= FULL_INDEX:
        raise ValueError(f"an affix index must be from 1 to {FULL_INDEX}, not {last}")
    found = [Affix(0, 0)]
    bits = k + 1
    while len(found) <= last:
        found += _run(bits, k)
        bits += 1
    del found[last + 1 :]
    return found


def decode(path: int, k: int = 0) -> tuple[int, int]:
    """Return the suffix that `path` ends in, as (index, length in bits), whatever stands above it.

    The inverse of `suffix`. `path` is an int and `k` as for `prefix`. Raises ValueError where the low bits
    are the suffix of no index from 1 to 65536: in 0, in negative numbers, and where too many zeros end them.

    >>> decode(0b1011_10100), decode(0b10100)
    ((5, 5), (5, 5))
    """
    check_k(k)
    zeros = (path & -path).bit_length() - 1
    if path > 0 and zeros <= _MAX_BITS - 1 - k:
        bits = zeros + 1 + k
        n = _mirror(path >> zeros & (1 << bits) - 1, bits) - (1 << k) + 1
        if n <= FULL_INDEX:
            return n, zeros + bits
    raise ValueError(f"{path} does not end in the suffix of any index, with k={k}")


def kraft(lengths: Iterable[int]) -> Fraction:
    """Return how much of the space of numbers the codes of these lengths (int, bits, up to 64) take up.

    That is the sum of 2^-length: half the space for a code of one bit, and so on. By Kraft's inequality it
    cannot exceed 1 where no code is the end of another, as here.

    >>> kraft([1, 3, 3])
    Fraction(3, 4)
    """
    return Fraction(sum(1 << _ONE - length for length in lengths), 1 << _ONE)


def check_k(k: int) -> None:
    """Raise ValueError unless `k` (int) is an order that the codes here are made for: 0 to 8."""
    if not 0 <= k <= MAX_K:
        raise ValueError(f"k must be from 0 to {MAX_K}, not {k}")


@cache
def _run(bits: int, k: int) -> list[Affix]:
    """All suffixes whose v has so many bits, in the order of their indices."""
    zeros = bits - 1 - k
    new, length = tuple.__new__, bits + zeros
    return [new(Affix, ((rest << 1 | 1) << zeros, length)) for rest in _mirrored(bits - 1)]


def _mirrored(bits: int) -> list[int]:
    """The numbers of so many bits, in their order, each turned end for end."""
    found = [0]
    for _ in range(bits):  # one more bit in front is one more at the end
        found = [rest << 1 for rest in found] + [rest << 1 | 1 for rest in found]
    return found


def _mirror(value: int, bits: int) -> int:
    """Turn the low `bits` bits (up to 32) of a value that has no others end for end."""
    value = (value >> 1 & 0x55555555) | (value & 0x55555555) << 1
    value = (value >> 2 & 0x33333333) | (value & 0x33333333) << 2
    value = (value >> 4 & 0x0F0F0F0F) | (value & 0x0F0F0F0F) << 4
    value = (value >> 8 & 0x00FF00FF) | (value & 0x00FF00FF) << 8
    return (value >> 16 | (value & 0xFFFF) << 16) >> 32 - bits
