"""The tables of QEMU's patches, version 1: read and written bit for bit, and turned into ours and back.

Source: "9p: persistency of QID path beyond reboots" (patch 3 and 4 of the 9pfs series of May 2019). Two streams, each
cut into attributes of up to 65536 bytes, `user.virtfs.system.qidp.0`, `.1`, ... and `user.virtfs.system.qidd.0`, ...;
all in host byte order, which is taken to be little-endian as on every machine that fusemap runs on:

    header  u16 version = 1, u16 options, u32 CRC-32C of the elements (not of the header)
    qidp    {u64 st_dev, u16 ino_prefix}; the element at position i is the entry with index i + 1
    qidd    {u64 st_dev, u8 bits}: how many of an inode's top bits ino_prefix holds for this device
    options k + 1 where the affixes are suffixes, 0 where they are prefixes (then there is no qidd); 0 in every qidd

The checksum leaves the header out and the two streams say nothing of each other. What they must agree on makes up for
it: a device's bits are the length of the affix of its first entry, and that of entry 1 follows from k.

What the format cannot say. A device is an st_dev, so it means something only until the next boot. There is no room for
the full map or for a retired index. And an entry whose affix is longer than its device's first one does not say which
inodes it covers: of 2^(difference) inodes with equal paths, ours takes the one whose lost bits are clear.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from crc32c import crc32c

from fusemap.errors import DamagedTable, Refused
from fusemap.table.ledger import Device, Floor, Ledger, Retired, affixes

PREFIX: Final = "user.virtfs.system."
"""What the names of the attributes begin with; `qidp.` or `qidd.` and a number follow."""

PIECE: Final = 65536
MOST_ENTRIES: Final = 32767
"""With more, the patches remove their attributes."""

_VERSION: Final = 1
_HEADER: Final = struct.Struct("<HHI")
_ENTRY: Final = struct.Struct("<QH")
_BITS: Final = struct.Struct("<QB")
_MAX_K: Final = 8
# st_dev of a place that must stay taken though no device can be named for it; the index is added.
_NOBODY: Final = 0xFFFFFFFFFFFF0000
_KEY_BITS: Final = 16


class Streams(NamedTuple):
    """The two streams as they are stored; `qidd` is None in prefix mode."""

    qidp: bytes
    qidd: bytes | None


class V1Table(NamedTuple):
    """What the streams say. `elements` are (st_dev, ino_prefix) by index from 1 on, `bits` are by st_dev.

    `suffixes` is False for prefix mode, which has neither `k` nor `bits`.
    """

    suffixes: bool
    k: int
    elements: list[tuple[int, int]]
    bits: dict[int, int]


class Report(NamedTuple):
    """What became of the entries: taken over, those of them that v1 does not tell exactly, and left out."""

    taken: int
    inexact: int
    left_out: int
    files: int = 0
    holders: int = 0

    def __str__(self) -> str:
        text = f"{self.taken} entries, of which {self.inexact} may have stood for several inodes with one number"
        if self.left_out:
            text += f"; {self.left_out} left out, their indices stay unused"
        if self.files:
            text += f"; {self.files} files of the full map left out"
        if self.holders:
            text += f"; which file had an inode number first, left out for {self.holders}: v1 cannot say that"
        return text


def read(fd: int, where: str) -> Streams | None:
    """The streams of a directory, None where it has none. Raises DamagedTable where pieces are missing, OSError."""
    try:
        names = [name for name in os.listxattr(fd) if name.startswith(PREFIX + "qid")]
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
            return None
        raise
    streams = {}
    for stream in ("qidp", "qidd"):
        count = sum(name.startswith(f"{PREFIX}{stream}.") for name in names)
        if count:
            pieces = [f"{PREFIX}{stream}.{number}" for number in range(count)]
            missing = sorted(set(pieces) - set(names))
            if missing:
                raise _damaged(stream, where, f"{missing[0]} is not there")
            streams[stream] = b"".join(os.getxattr(fd, name) for name in pieces)
    if not streams:
        return None
    if "qidp" not in streams:
        raise _damaged("qidp", where, "it is not there, though qidd is")
    return Streams(streams["qidp"], streams.get("qidd"))


def write(fd: int, streams: Streams) -> None:
    """Store the streams as attributes of a directory, in place of earlier ones. Raises OSError."""
    kept = set()
    for stream, data in (("qidd", streams.qidd), ("qidp", streams.qidp)):
        for number, at in enumerate(range(0, len(data or b""), PIECE)):
            name = f"{PREFIX}{stream}.{number}"
            os.setxattr(fd, name, (data or b"")[at : at + PIECE])
            kept.add(name)
    remove(fd, kept)


def remove(fd: int, keep: set[str] | None = None) -> None:
    """Remove the attributes, but for those in `keep`. Raises OSError."""
    for name in os.listxattr(fd):
        if name.startswith((f"{PREFIX}qidp.", f"{PREFIX}qidd.")) and name not in (keep or ()):
            os.removexattr(fd, name)


def parse(streams: Streams, where: str) -> V1Table:
    """Take the streams apart. Raises DamagedTable, naming stream and fault, where they are not as they were written."""
    options, elements = _elements("qidp", streams.qidp, _ENTRY, where)
    if len(elements) > MOST_ENTRIES:
        raise _damaged("qidp", where, f"it has {len(elements)} entries, and never more than {MOST_ENTRIES} are stored")
    if len(set(elements)) < len(elements):
        raise _damaged("qidp", where, "two of its entries are for the same inodes")
    if options > _MAX_K + 1:
        raise _damaged("qidp", where, f"its options are {options}")
    if options == 0:
        if streams.qidd is not None:
            raise _damaged("qidp", where, "its options say that there is no qidd, and there is one")
        return V1Table(False, 0, elements, {})
    if streams.qidd is None:
        raise _damaged("qidd", where, "it is not there, though the options of qidp ask for it")
    table = V1Table(True, options - 1, elements, _bits(streams.qidd, where))
    _check_bits(table, where)
    return table


def build(table: V1Table) -> Streams:
    """The streams that say this: the inverse of `parse`, the devices of qidd in the order of `table.bits`."""
    qidp = b"".join(_ENTRY.pack(*element) for element in table.elements)
    if not table.suffixes:
        return Streams(_with_header(0, qidp), None)
    qidd = b"".join(_BITS.pack(*pair) for pair in table.bits.items())
    return Streams(_with_header(table.k + 1, qidp), _with_header(0, qidd))


def import_into(ledger: Ledger, table: V1Table, device_of: Callable[[int], str | None], where: str) -> Report:
    """Take a table over into an empty ledger of the same kind.

    `device_of` turns an st_dev into an identity key, or None where nothing is known by it; such entries, and any that
    would contradict an earlier one, leave a retired index behind, so that nobody else gets their numbers. Raises
    Refused where the ledger's mode and k are not the table's.
    """
    mine = (ledger.mode != "prefix", ledger.k if ledger.mode != "prefix" else 0)
    if mine != (table.suffixes, table.k):
        theirs = f"--map suffix -k {table.k}" if table.suffixes else "--map prefix"
        raise Refused(
            f"{where} has a table of QEMU's format for {theirs}: take that to keep its numbers, --state none for a "
            f"look, or remove the attributes {PREFIX}qidp.* and qidd.* to start anew"
        )
    affix = affixes(ledger.mode, ledger.k)
    taken = inexact = left_out = 0
    for index, (dev, prefix) in enumerate(table.elements, 1):
        key = device_of(dev)
        length = affix(index).length
        bits = table.bits.get(dev, _KEY_BITS)
        top = prefix << length - bits if ledger.mode == "suffix" else prefix
        try:
            if key is None:
                raise ValueError(f"no device is known by {dev}")
            entry = ledger.entry(index, key, top)
            ledger.check_entry(entry, [key])
        except ValueError:
            ledger.apply(Retired(index))
            left_out += 1
            continue
        if key not in ledger.devices:
            ledger.apply(Device(key))
        ledger.apply(entry)
        taken += 1
        inexact += table.suffixes and (length > bits or bits > _KEY_BITS)
    ledger.apply(Floor(len(table.elements) + 1, 1))
    return Report(taken, inexact, left_out)


def export_from(ledger: Ledger, dev_of: Callable[[str], int | None]) -> tuple[V1Table, Report]:
    """The v1 table of a ledger. `dev_of` gives the st_dev of a device that is mounted now, None for others.

    What v1 cannot say leaves its place to a device that does not exist. Raises Refused for more than 32767 indices.
    """
    count = ledger.next_index() - 1
    if count > MOST_ENTRIES:
        raise Refused(f"the table has come to index {count}, and v1 ends at {MOST_ENTRIES}: export it as JSON")
    suffixes = ledger.mode != "prefix"
    affix = affixes(ledger.mode, ledger.k)
    elements: list[tuple[int, int]] = []
    bits: dict[int, int] = {}
    seen: set[tuple[int, int]] = set()
    taken = inexact = left_out = 0
    for index in range(1, count + 1):
        length = affix(index).length
        entry = ledger.entries.get(index)
        dev = dev_of(str(entry.device)) if entry is not None else None
        element = None
        if entry is not None and dev is not None:
            width = bits.get(dev, length)
            element = _element(ledger.mode, dev, entry.top, length, width)
        if element is None or element in seen or dev is None:
            dev = _NOBODY | index
            element, width = (dev, 0), length
            left_out += 1
        else:
            taken += 1
            inexact += suffixes and (length > width or width > _KEY_BITS)
        seen.add(element)
        elements.append(element)
        if suffixes:
            bits.setdefault(dev, width)
    report = Report(taken, inexact, left_out, len(ledger.full), ledger.holder_count)
    return V1Table(suffixes, ledger.k if suffixes else 0, elements, bits), report


def _element(mode: str, dev: int, top: int, length: int, bits: int) -> tuple[int, int] | None:
    """The element for an entry, None where its key needs bits that v1 does not keep."""
    if mode == "suffix":
        lost = length - bits
        if top & (1 << lost) - 1:
            return None
        top >>= lost
    return None if top >> _KEY_BITS else (dev, top)


def _elements(stream: str, data: bytes, element: struct.Struct, where: str) -> tuple[int, list[tuple[int, int]]]:
    """Options and elements of a stream, with everything checked that one stream alone can tell."""
    if len(data) < _HEADER.size:
        raise _damaged(stream, where, f"it has {len(data)} bytes, too few for a header")
    version, options, crc = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise _damaged(stream, where, f"its version is {version} and not {_VERSION}")
    body = memoryview(data)[_HEADER.size :]
    if len(body) % element.size:
        raise _damaged(stream, where, f"{len(body) % element.size} bytes are left over at its end")
    if crc32c(body) != crc:
        raise _damaged(stream, where, "its checksum is wrong")
    return options, [(dev, value) for dev, value in element.iter_unpack(body)]


def _bits(data: bytes, where: str) -> dict[int, int]:
    options, pairs = _elements("qidd", data, _BITS, where)
    if options:
        raise _damaged("qidd", where, f"its options are {options} and not 0")
    bits = dict(pairs)
    if len(bits) < len(pairs):
        raise _damaged("qidd", where, "it has a device twice")
    return bits


def _check_bits(table: V1Table, where: str) -> None:
    """Hold the two streams against each other."""
    affix = affixes("suffix", table.k)
    first: dict[int, int] = {}
    for index, (dev, prefix) in enumerate(table.elements, 1):
        bits = table.bits.get(dev)
        if bits is None:
            raise _damaged("qidd", where, f"it lacks device {dev} of entry {index}")
        if first.setdefault(dev, index) == index and affix(index).length != bits:
            raise _damaged("qidd", where, f"it has {bits} bits for device {dev}, whose first entry is {index}")
        if prefix >> min(bits, _KEY_BITS):
            raise _damaged("qidp", where, f"entry {index} has more than the {bits} bits of its device")
    # The patches note a device's bits right before its first entry; a crash in between leaves the bits alone.
    due = affix(len(table.elements) + 1).length
    for dev, bits in table.bits.items():
        if dev not in first and bits != due:
            raise _damaged("qidd", where, f"it has {bits} bits for device {dev}, which has no entry")


def _with_header(options: int, body: bytes) -> bytes:
    return _HEADER.pack(_VERSION, options, crc32c(body)) + body


def _damaged(stream: str, where: str, how: str) -> DamagedTable:
    return DamagedTable(
        f"the table of QEMU's format on {where} is damaged ({stream}: {how}); nothing was changed. Restore it from a "
        f"backup, remove the attributes {PREFIX}{stream}.* and its companions to start anew, or take --state none"
    )
