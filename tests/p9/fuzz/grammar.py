"""Requests made of choices: whoever makes the choices - hypothesis, or the bytes of a fuzzer - makes the requests.

Most requests are sensible, since nonsense is refused at the door and shows nothing of the house. Values are taken from
small sets, so that fids, names and ranges meet each other; one in some is a number or a name from the edges.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar, get_type_hints

from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect, encode
from fusemap.qid import QID

T = TypeVar("T")


class Choices(Protocol):
    """Where choices come from."""

    def below(self, count: int) -> int:
        """A number from 0 to `count` - 1."""

    def more(self) -> bool:
        """Whether there is to be another step."""


class Bytes:
    """Choices made by bytes; when they are used up, 0 is chosen."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, count: int) -> int:
        value, width = 0, (max(count - 1, 1).bit_length() + 7) // 8
        for _ in range(width):
            value = value << 8 | (self._data[self._at] if self._at < len(self._data) else 0)
            self._at += 1
        return value % count

    def more(self) -> bool:
        return self._at < len(self._data)


def pick(choices: Choices, values: Sequence[T]) -> T:
    """One of the values."""
    return values[choices.below(len(values))]


NEW_FIDS: Final = (*range(1, 10), 0, m.NOFID, 0x7FFFFFFF)
ODD_FIDS: Final = (0, 1, 5, m.NOFID, 0x7FFFFFFF)
KNOWN: Final = (b"dir", b"file", b"new", b"link", b"sub", b"deep", b"fifo", b"other", b"large", b"stats.json", b"..")
NAMES: Final = (
    *KNOWN,
    b".",
    b"..",
    b"",
    b"a/b",
    b"/etc",
    b"nul\0",
    b"\xff\n\x1b[2J",
    b"x" * 255,
    b"x" * 256,
    b"../outside",
)
ATTRIBUTES: Final = (
    b"user.a",
    b"",
    b"user.virtfs.mode",
    b"system.posix_acl_access",
    b"security.capability",
    b"trusted.x",
    b"user.fusemap.path",
    b"user.nul\0",
    b"user." + b"x" * 300,
    b"nonsense",
)
SIZES: Final = (0, 1, 5, 24, 100, 511, 4096, 5000, 1 << 31, (1 << 32) - 1)
OFFSETS: Final = (*SIZES, 1 << 40, (1 << 63) - 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
BITS: Final = (
    0,
    1,
    2,
    3,
    8,
    0x10,
    0x40,
    0o100,
    0o200,
    0o644,
    0o755,
    0o1000,
    0o2000,
    0o4755,
    0o40755,
    0o100644,
    0o10644,
    0o60600,
    0o20600,
    0o140644,
    0o200000,
    0o400000,
    0o1000000,
    0o10000000,
    0x1FF,
    0x17FF,
    0x3FFF,
    0x80000000,
    0x800001ED,
    0x02000000,
    0x01000000,
    0x00800000,
    0x00200000,
    0x00100000,
    0xFFFFFFFF,
    0xFFFFFFFFFFFFFFFF,
)
IDS: Final = (0, 1, 1000, 61001, 65534, m.NONUNAME, 0xFFFFFFFE)
EXTENSIONS: Final = (
    b"",
    b"../file",
    b"b 8 1",
    b"c 1 3",
    b"c 4294967295 4294967295",
    b"b 99999999999999999999 1",
    b"1",
    b"9" * 5000,
    b"/etc/passwd",
    b"\0",
)
USERS: Final = (b"root", b"nobody", b"", b"0", b"61001", b"9" * 5000, b"\xff", b"nul\0")
ANAMES: Final = (b"", b"/", b"dir", b"/dir/sub/", b"ctl", b"..", b"dir/../..", b"file", b"/etc", b"\0")
VERSIONS: Final = (b"9P2000.L", b"9P2000.u", b"9P2000", b"9P2000.xyz", b"9P2001", b"", b"9P2000.L\0")
MSIZES: Final = (8192, 512, 4096, 511, 0, 0xFFFFFFFF)
TAGS: Final = (*range(12), m.NOTAG)
SPECIAL: Final[dict[str, Sequence[Any]]] = {
    "name": NAMES,
    "oldname": NAMES,
    "newname": NAMES,
    "target": (*EXTENSIONS, *NAMES),
    "extension": EXTENSIONS,
    "uname": USERS,
    "uid": (b"", b"root", b"nobody", b"1000", b"9" * 5000),
    "gid": (b"", b"root", b"nogroup", b"1000", b"9" * 5000),
    "muid": (b"", b"root"),
    "aname": ANAMES,
    "version": VERSIONS,
    "msize": MSIZES,
    "client_id": (b"guest", b"", b"other", b"c" * 1025),
    "oldtag": TAGS,
    "afid": (m.NOFID, m.NOFID, 0, 1),
    "proc_id": (1, 2),
    "start": (0, 1, 5, 10, *OFFSETS),
    "length": (0, 1, 5, 10, *OFFSETS),
}

USUAL: Final[dict[tuple[type, str], Sequence[Any]]] = {
    (m.Txattrwalk, "name"): ATTRIBUTES,
    (m.Txattrcreate, "name"): ATTRIBUTES,
    (m.Txattrcreate, "attr_size"): (5, 0, 1, 24),
    (m.Txattrcreate, "flags"): (0, 1, 2),
    (m.Tlopen, "flags"): (2, 0, 1, 0o1002, 0o2001, 0o200000, 0o1000000),
    (m.Tlcreate, "flags"): (2, 0o102, 0o302, 1, 0o1001),
    (m.Topen, "mode"): (2, 0, 1, 3, 0x12, 0x40, 0x81),
    (m.Tcreate, "mode"): (2, 0, 1, 0x12, 0x42),
    (m.Tcreate, "perm"): (0o644, 0x800001ED, 0x020001FF, 0x010001FF, 0x008001B0, 0x002001B0),
    (m.Tlock, "type"): (1, 0, 2),
    (m.Tlock, "flags"): (1, 0, 2),
    (m.Tlock, "start"): (0, 1, 5, 10),
    (m.Tlock, "length"): (0, 1, 5, 10),
    (m.Tlock, "client_id"): (b"guest",),
    (m.Tgetlock, "type"): (1, 0),
    (m.Tgetlock, "start"): (0, 1, 5, 10),
    (m.Tgetlock, "length"): (0, 1, 5, 10),
    (m.Tread, "offset"): (0, 5, 100),
    (m.Twrite, "offset"): (0, 5, 10),
    (m.Treaddir, "offset"): (0,),
    (m.Tunlinkat, "flags"): (0, 0x200),
}

_BY_DIALECT: Final = {
    Dialect.LINUX: [row for number, row in m.BY_NUMBER.items() if number % 2 == 0 and not 112 <= number <= 114],
    Dialect.UNIX: [row for number, row in m.BY_NUMBER.items() if number % 2 == 0 and number >= 100],
}
_BY_DIALECT[Dialect.BASE] = _BY_DIALECT[Dialect.UNIX]
# Asked more often, since the others need what they make.
_OFTEN: Final = {
    Dialect.LINUX: [m.Twalk, m.Twalk, m.Tlopen, m.Tlcreate, m.Tread, m.Twrite, m.Treaddir, m.Tclunk, m.Tlock],
    Dialect.UNIX: [m.Twalk, m.Twalk, m.Topen, m.Topen, m.Tcreate, m.Tread, m.Twrite, m.Tclunk, m.Twstat],
}
_OFTEN[Dialect.BASE] = _OFTEN[Dialect.UNIX]
_OPEN: Final = (m.Tread, m.Twrite, m.Treaddir, m.Tfsync, m.Tlock, m.Tgetlock)
_CONSUMING: Final = (m.Tclunk, m.Tremove, m.Tlcreate, m.Tcreate, m.Tlopen, m.Topen, m.Txattrcreate)


def request(choices: Choices, dialect: Dialect, fids: Sequence[int], opened: Sequence[int]) -> Any:
    """One request that the dialect has; `fids` are those that the client has, `opened` those of them that are open."""
    row = pick(choices, _BY_DIALECT[dialect] + 3 * _OFTEN[dialect])
    if row is m.Tversion and choices.below(8):
        row = m.Twalk  # it ends all that was, so it must be seldom
    hints = _hints(row)
    made = row(*(field(choices, row, name, hints[name].__metadata__, fids) for name in row._fields))
    if row in _OPEN and not opened and choices.below(8):
        return m.Tlopen(pick(choices, fids), 0) if dialect is Dialect.LINUX else m.Topen(pick(choices, fids), 0)
    if row in _OPEN and opened and choices.below(8):
        made = made._replace(fid=pick(choices, opened))
    if row in _CONSUMING and made.fid == 0 and choices.below(16):  # without its root a client can do nothing more
        return m.Twalk(0, _unused(fids), (pick(choices, KNOWN),))
    return made


def _unused(fids: Sequence[int]) -> int:
    return next(number for number in range(1, len(fids) + 2) if number not in fids)


_hints = functools.cache(functools.partial(get_type_hints, include_extras=True))


def field(choices: Choices, row: type, name: str, kind: tuple[str, ...], fids: Sequence[int]) -> Any:
    """A value for a field."""
    usual = USUAL.get((row, name))
    if usual is not None and choices.below(4):
        return pick(choices, usual)
    if SPECIAL.get(name) is NAMES and choices.below(2):
        return pick(choices, KNOWN)
    if name in SPECIAL and (kind[0] == "string") == isinstance(SPECIAL[name][0], bytes):
        return pick(choices, SPECIAL[name])
    if name == "newfid" or (row is m.Tattach and name == "fid"):
        return _unused(fids) if choices.below(8) else pick(choices, NEW_FIDS)
    if name.endswith("fid"):
        return pick(choices, fids) if choices.below(16) else pick(choices, ODD_FIDS)
    if kind[0] == "strings":
        count = pick(choices, (1, 0, 2, 3, 1, 17))
        return tuple(pick(choices, KNOWN if choices.below(4) else NAMES) for _ in range(count))
    if kind[0] == "data":
        return bytes([choices.below(256)]) * pick(choices, (5, 0, 1, 24, 100, 5000))
    if kind[0] == "stat":
        return record(choices)
    if name in ("gid", "uid", "n_uname"):
        return pick(choices, IDS)
    if kind[0] == "Q":
        return pick(choices, OFFSETS)
    width = {"B": 8, "H": 16, "I": 32}[kind[0]]
    if name in ("flags", "mode", "perm", "valid", "request_mask", "type"):
        return pick(choices, BITS) & (1 << width) - 1
    if name == "count":
        return pick(choices, (8192, *SIZES))
    return pick(choices, SIZES) & (1 << width) - 1


def record(choices: Choices) -> m.StatRecord:
    """A stat record for wstat: mostly "don't touch"."""
    hints = _hints(m.StatRecord)
    same = m.StatRecord(
        *(
            b"" if kind[0] == "string" else QID(0xFF, 0xFFFFFFFF, (1 << 64) - 1) if kind[0] == "qid"
            else (1 << 8 * struct.calcsize(kind[0])) - 1
            for kind in (hints[name].__metadata__ for name in m.StatRecord._fields)
        )
    )  # fmt: skip
    for _ in range(choices.below(4)):
        name = pick(choices, ("name", "mode", "length", "mtime", "gid", "n_uid", "n_gid", "atime", "uid", "extension"))
        same = same._replace(**{name: field(choices, m.StatRecord, name, hints[name].__metadata__, ())})
    return same


def frame(choices: Choices, dialect: Dialect, tag: int, fids: Sequence[int], opened: Sequence[int]) -> bytes:
    """The bytes of one request; of one in sixteen, some are wrong."""
    made = request(choices, dialect, fids or ODD_FIDS, opened)
    try:
        raw = bytearray(encode(made, m.NOTAG if isinstance(made, m.Tversion) else tag, dialect))
    except (struct.error, ValueError):
        return b""
    how = choices.below(64)
    if how == 0:  # a byte of the body
        at = 7 + choices.below(max(len(raw) - 7, 1))
        if at < len(raw):
            raw[at] = choices.below(256)
    elif how == 1:  # a byte anywhere
        raw[choices.below(len(raw))] = choices.below(256)
    elif how == 2:  # cut short, in good order
        del raw[7 + choices.below(max(len(raw) - 7, 1)) :]
        raw[:4] = struct.pack("<I", len(raw))
    elif how == 3:  # more behind it
        raw += bytes(1 + choices.below(40))
        raw[:4] = struct.pack("<I", len(raw))
    return bytes(raw)
