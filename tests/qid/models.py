"""Second opinions: the mappings once more, written to be seen to be right, however slow.

They share no line with `fusemap.qid`. `SuffixModel` and `PrefixModel` work on strings of 64 binary digits,
straight from the definition. `QemuModel` follows QEMU's hw/9pfs/9p.c function by function, names, log2() and
all.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Hashable

MASK64 = (1 << 64) - 1
RESERVED = {0, 1, MASK64 - 1, MASK64}


def golomb(n: int, k: int) -> str:
    """The Exp-Golomb-k code of n = 1, 2, 3, ... as a string of binary digits."""
    digits = format(n + 2**k - 1, "b")
    return "0" * max(len(digits) - 1 - k, 0) + digits


class PrefixModel:
    """Mode prefix: entries are (device, sixteen digits), the position in the list is the prefix."""

    length_of_full = 48

    def __init__(self, k: int = 0, index: int = 1, counter: int = 1) -> None:
        self.k = k
        self.index = index
        self.counter = counter
        self.entries: list[tuple[Hashable, str, str]] = []
        self.full: dict[tuple[Hashable, int], int] = {}

    def affix(self, index: int) -> str:
        """The affix of an index."""
        return format(index, "016b")

    def join(self, rest: str, affix: str) -> int:
        """The path made of an inode's lower digits and an affix."""
        return int(affix + rest, 2)

    def full_path(self) -> int:
        """The next number of the full map that is not reserved."""
        while True:
            affix = self.affix(0)
            if self.counter.bit_length() > 64 - len(affix):
                raise OSError(errno.ENFILE, "exhausted")
            path = self.join(format(self.counter, f"0{64 - len(affix)}b"), affix)
            self.counter += 1
            if path not in RESERVED:
                return path

    def path(self, device: Hashable, inode: int) -> int:
        """The path of an inode."""
        if (device, inode) in self.full:
            return self.full[device, inode]
        digits = format(inode, "064b")
        found = any(d == device and digits.startswith(top) for d, top, _ in self.entries)
        if not found and self.index < 65536:
            affix = self.affix(self.index)
            self.entries.append((device, digits[: len(affix)], affix))
            self.index += 1
        for d, top, affix in self.entries:
            if d == device and digits.startswith(top):
                path = self.join(digits[len(top) :], affix)
                if path not in RESERVED:
                    return path
        self.full[device, inode] = self.full_path()
        return self.full[device, inode]


class SuffixModel(PrefixModel):
    """Mode suffix: the same with mirrored Exp-Golomb codes at the other end."""

    def affix(self, index: int) -> str:
        return golomb(index or 65536, self.k)[::-1]

    def join(self, rest: str, affix: str) -> int:
        return int(rest + affix, 2)


def mirror8bit(byte: int) -> int:
    return (byte * 0x0202020202 & 0x010884422010) % 1023


def mirror64bit(value: int) -> int:
    return sum(mirror8bit(value >> 8 * i & 0xFF) << 56 - 8 * i for i in range(8))


class QemuModel:
    """Mode qemu: V9fsState and the functions behind stat_to_qid(). Knows no reserved numbers, as QEMU."""

    def __init__(self, k: int = 0, qp_affix_next: int = 1) -> None:
        self.k = k  # EXP_GOLOMB_K
        self.qp_affix_next = qp_affix_next
        self.qp_fullpath_next = 1
        self.qpd_table: dict[Hashable, int] = {}
        self.qpp_table: dict[tuple[Hashable, int], tuple[int, int]] = {}
        self.qpf_table: dict[tuple[Hashable, int], int] = {}

    def affix_for_index(self, index: int) -> tuple[int, int]:
        value = index + (1 << self.k) - 1
        bits = int(math.log2(value)) + 1
        bits += max(bits - 1 - self.k, 0)
        return mirror64bit(value) >> 64 - bits, bits

    def qid_inode_prefix_hash_bits(self, dev: Hashable) -> int:
        if dev not in self.qpd_table:
            self.qpd_table[dev] = self.affix_for_index(self.qp_affix_next)[1]
        return self.qpd_table[dev]

    def qid_path_suffixmap(self, dev: Hashable, ino: int) -> int | None:
        if self.qp_affix_next == 0 and dev not in self.qpd_table:
            return None  # log2(0) in C; whatever comes of it, the device has no entry to be found
        lookup = dev, ino >> 64 - self.qid_inode_prefix_hash_bits(dev) & 0xFFFF
        if lookup not in self.qpp_table:
            if self.qp_affix_next == 0:
                return None
            self.qpp_table[lookup] = self.affix_for_index(self.qp_affix_next)
            self.qp_affix_next = self.qp_affix_next + 1 & 0xFFFF
        value, bits = self.qpp_table[lookup]
        return ino << bits & MASK64 | value

    def qid_path_fullmap(self, dev: Hashable, ino: int) -> int:
        if (dev, ino) not in self.qpf_table:
            if self.qp_fullpath_next == 0:
                raise OSError(errno.ENFILE, "exhausted")
            value, bits = self.affix_for_index(1 << 16)
            self.qpf_table[dev, ino] = self.qp_fullpath_next << bits | value
            self.qp_fullpath_next = self.qp_fullpath_next + 1 & (1 << 64 - bits) - 1
        return self.qpf_table[dev, ino]

    def path(self, dev: Hashable, ino: int) -> int:
        path = self.qid_path_suffixmap(dev, ino)
        return self.qid_path_fullmap(dev, ino) if path is None else path
