"""XXH64 and XXH32 of (device, inode), for arrays: what a tree would get whose numbers are a hash.

The library `xxhash` takes one key a call; ten million calls take longer than the walk. For keys of exactly sixteen
bytes the algorithms are a few lines (doc/xxhash_spec.md in github.com/Cyan4973/xxHash), and numpy's unsigned integers
wrap around as they ask for. The key is device and inode as two little-endian 64-bit numbers, the seed is 0.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fusemap.census.spill import Numbers

_U64: Final = np.uint64
_P64: Final = [
    _U64(11400714785074694791), _U64(14029467366897019727), _U64(1609587929392839161), _U64(9650029242287828579),
    _U64(2870177450012600261),
]  # fmt: skip
_U32: Final = np.uint32
_P32: Final = [_U32(2654435761), _U32(2246822519), _U32(3266489917), _U32(668265263), _U32(374761393)]
_LENGTH: Final = 16


def xxh64(device: Numbers, inode: Numbers) -> Numbers:
    """XXH64 of each pair of unsigned 64-bit numbers."""
    one, two, three, four, five = _P64
    value = np.full(len(inode), five + _U64(_LENGTH), dtype=_U64)
    for lane in (device, inode):
        value ^= _rotate64(lane * two, 31) * one
        value = _rotate64(value, 27) * one + four
    value ^= value >> _U64(33)
    value *= two
    value ^= value >> _U64(29)
    value *= three
    return value ^ value >> _U64(32)


def xxh32(device: Numbers, inode: Numbers) -> Numbers:
    """XXH32 of each pair, as 64-bit numbers."""
    one, two, three, _, _ = _P32
    lanes = [device.astype(_U32), (device >> _U64(32)).astype(_U32)]
    lanes += [inode.astype(_U32), (inode >> _U64(32)).astype(_U32)]
    starts = [0x24234428, int(two), 0, (1 << 32) - int(one)]  # 0x24234428 is one + two, cut to 32 bits
    value = np.full(len(inode), _LENGTH, dtype=_U32)
    for lane, start, turn in zip(lanes, starts, (1, 7, 12, 18), strict=True):
        value += _rotate32(_rotate32(lane * two + _U32(start), 13) * one, turn)
    value ^= value >> _U32(15)
    value *= two
    value ^= value >> _U32(13)
    value *= three
    return (value ^ value >> _U32(16)).astype(_U64)


def _rotate64(value: Numbers, bits: int) -> Numbers:
    return value << _U64(bits) | value >> _U64(64 - bits)


def _rotate32(value: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint32]:
    return value << _U32(bits) | value >> _U32(32 - bits)
