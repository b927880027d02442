"""Every message of 9P2000, 9P2000.u and 9P2000.L: the one table of the wire.

A class is a row: its number, its fields in the order of the wire, and for each field how it is written. The codec is
made from these rows, so that nothing about the wire is said twice. T-messages have even numbers and go to the server;
the answer to T is R = T + 1.

Sources: section 5 of the Plan 9 manual (intro, attach, walk, ...) for 9P2000; "9P2000.u Unix Extension" for .u; diod's
protocol.md and include/net/9p/9p.h in Linux for .L.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, NamedTuple, TypeAlias, TypeVar

from fusemap.qid import QID

NOTAG: Final = 0xFFFF
NOFID: Final = 0xFFFFFFFF
NONUNAME: Final = 0xFFFFFFFF
MAX_WALK: Final = 16

# How a field is written: little-endian unsigned integers of 1, 2, 4 and 8 bytes, and what is made of them.
U8: TypeAlias = Annotated[int, "B"]
U16: TypeAlias = Annotated[int, "H"]
U32: TypeAlias = Annotated[int, "I"]
U64: TypeAlias = Annotated[int, "Q"]
Hex32: TypeAlias = Annotated[int, "I", "hex"]  # flags and masks, which people read in hexadecimal
Hex64: TypeAlias = Annotated[int, "Q", "hex"]
Octal: TypeAlias = Annotated[int, "I", "octal"]
Qid: TypeAlias = Annotated[QID, "qid"]
String: TypeAlias = Annotated[bytes, "string"]  # len[2] bytes
Strings: TypeAlias = Annotated[tuple[bytes, ...], "strings"]  # n[2] n*string
Qids: TypeAlias = Annotated[tuple[QID, ...], "qids"]  # n[2] n*qid
Data: TypeAlias = Annotated[bytes | memoryview, "data"]  # count[4] bytes
UnixString: TypeAlias = Annotated[bytes, "string", "unix"]  # only in .u
UnixU32: TypeAlias = Annotated[int, "I", "unix"]  # in .u and .L, not in 9P2000
LateU32: TypeAlias = Annotated[int, "I", "late"]  # at the end of a message that older clients send without it

Row = TypeVar("Row", bound=type)
BY_NUMBER: Final[dict[int, type]] = {}
NUMBERS: Final[dict[type, int]] = {}


def message(number: int) -> Callable[[Row], Row]:
    """Enters a class into the table under its message number."""

    def enter(row: Row) -> Row:
        BY_NUMBER[number] = row
        NUMBERS[row] = number
        return row

    return enter


class StatRecord(NamedTuple):
    """What stat and wstat of 9P2000 and .u carry, and what their directories are made of; size[2] stands before it."""

    type: U16
    dev: U32
    qid: Qid
    mode: Octal
    atime: U32
    mtime: U32
    length: U64
    name: String
    uid: String
    gid: String
    muid: String
    extension: UnixString = b""
    n_uid: UnixU32 = NONUNAME
    n_gid: UnixU32 = NONUNAME
    n_muid: UnixU32 = NONUNAME


Record: TypeAlias = Annotated[StatRecord, "stat"]  # n[2] and the record with its own size[2]


# All dialects -------------------------------------------------------------------------------------------------------


@message(100)
class Tversion(NamedTuple):
    msize: U32
    version: String


@message(101)
class Rversion(NamedTuple):
    msize: U32
    version: String


@message(102)
class Tauth(NamedTuple):
    afid: U32
    uname: String
    aname: String
    n_uname: UnixU32 = NONUNAME


@message(103)
class Rauth(NamedTuple):
    aqid: Qid


@message(104)
class Tattach(NamedTuple):
    fid: U32
    afid: U32
    uname: String
    aname: String
    n_uname: UnixU32 = NONUNAME


@message(105)
class Rattach(NamedTuple):
    qid: Qid


@message(107)
class Rerror(NamedTuple):
    """9P2000 and .u; in .L it is Rlerror."""

    ename: String
    errno: UnixU32 = 0


@message(108)
class Tflush(NamedTuple):
    oldtag: U16


@message(109)
class Rflush(NamedTuple):
    pass


@message(110)
class Twalk(NamedTuple):
    fid: U32
    newfid: U32
    wname: Strings


@message(111)
class Rwalk(NamedTuple):
    wqid: Qids


@message(116)
class Tread(NamedTuple):
    fid: U32
    offset: U64
    count: U32  # type: ignore[assignment]  # the protocol calls it as tuple calls a method


@message(117)
class Rread(NamedTuple):
    data: Data


@message(118)
class Twrite(NamedTuple):
    fid: U32
    offset: U64
    data: Data


@message(119)
class Rwrite(NamedTuple):
    count: U32  # type: ignore[assignment]  # the protocol calls it as tuple calls a method


@message(120)
class Tclunk(NamedTuple):
    fid: U32


@message(121)
class Rclunk(NamedTuple):
    pass


@message(122)
class Tremove(NamedTuple):
    fid: U32


@message(123)
class Rremove(NamedTuple):
    pass


# 9P2000 and 9P2000.u ------------------------------------------------------------------------------------------------


@message(112)
class Topen(NamedTuple):
    fid: U32
    mode: U8


@message(113)
class Ropen(NamedTuple):
    qid: Qid
    iounit: U32


@message(114)
class Tcreate(NamedTuple):
    fid: U32
    name: String
    perm: Octal
    mode: U8
    extension: UnixString = b""


@message(115)
class Rcreate(NamedTuple):
    qid: Qid
    iounit: U32


@message(124)
class Tstat(NamedTuple):
    fid: U32


@message(125)
class Rstat(NamedTuple):
    stat: Record


@message(126)
class Twstat(NamedTuple):
    fid: U32
    stat: Record


@message(127)
class Rwstat(NamedTuple):
    pass


# 9P2000.L -----------------------------------------------------------------------------------------------------------


@message(7)
class Rlerror(NamedTuple):
    ecode: U32


@message(8)
class Tstatfs(NamedTuple):
    fid: U32


@message(9)
class Rstatfs(NamedTuple):
    type: Hex32
    bsize: U32
    blocks: U64
    bfree: U64
    bavail: U64
    files: U64
    ffree: U64
    fsid: Hex64
    namelen: U32


@message(12)
class Tlopen(NamedTuple):
    fid: U32
    flags: Octal


@message(13)
class Rlopen(NamedTuple):
    qid: Qid
    iounit: U32


@message(14)
class Tlcreate(NamedTuple):
    fid: U32
    name: String
    flags: Octal
    mode: Octal
    gid: U32


@message(15)
class Rlcreate(NamedTuple):
    qid: Qid
    iounit: U32


@message(16)
class Tsymlink(NamedTuple):
    dfid: U32
    name: String
    target: String
    gid: U32


@message(17)
class Rsymlink(NamedTuple):
    qid: Qid


@message(18)
class Tmknod(NamedTuple):
    dfid: U32
    name: String
    mode: Octal
    major: U32
    minor: U32
    gid: U32


@message(19)
class Rmknod(NamedTuple):
    qid: Qid


@message(20)
class Trename(NamedTuple):
    fid: U32
    dfid: U32
    name: String


@message(21)
class Rrename(NamedTuple):
    pass


@message(22)
class Treadlink(NamedTuple):
    fid: U32


@message(23)
class Rreadlink(NamedTuple):
    target: String


@message(24)
class Tgetattr(NamedTuple):
    fid: U32
    request_mask: Hex64


@message(25)
class Rgetattr(NamedTuple):
    valid: Hex64
    qid: Qid
    mode: Octal
    uid: U32
    gid: U32
    nlink: U64
    rdev: U64
    size: U64
    blksize: U64
    blocks: U64
    atime_s: U64
    atime_ns: U64
    mtime_s: U64
    mtime_ns: U64
    ctime_s: U64
    ctime_ns: U64
    btime_s: U64
    btime_ns: U64
    gen: U64
    data_version: U64


@message(26)
class Tsetattr(NamedTuple):
    fid: U32
    valid: Hex32
    mode: Octal
    uid: U32
    gid: U32
    size: U64
    atime_s: U64
    atime_ns: U64
    mtime_s: U64
    mtime_ns: U64


@message(27)
class Rsetattr(NamedTuple):
    pass


@message(30)
class Txattrwalk(NamedTuple):
    fid: U32
    newfid: U32
    name: String


@message(31)
class Rxattrwalk(NamedTuple):
    size: U64


@message(32)
class Txattrcreate(NamedTuple):
    fid: U32
    name: String
    attr_size: U64
    flags: U32


@message(33)
class Rxattrcreate(NamedTuple):
    pass


@message(40)
class Treaddir(NamedTuple):
    fid: U32
    offset: U64
    count: U32  # type: ignore[assignment]  # the protocol calls it as tuple calls a method


@message(41)
class Rreaddir(NamedTuple):
    data: Data


@message(50)
class Tfsync(NamedTuple):
    fid: U32
    datasync: LateU32 = 0


@message(51)
class Rfsync(NamedTuple):
    pass


@message(52)
class Tlock(NamedTuple):
    fid: U32
    type: U8
    flags: U32
    start: U64
    length: U64
    proc_id: U32
    client_id: String


@message(53)
class Rlock(NamedTuple):
    status: U8


@message(54)
class Tgetlock(NamedTuple):
    fid: U32
    type: U8
    start: U64
    length: U64
    proc_id: U32
    client_id: String


@message(55)
class Rgetlock(NamedTuple):
    type: U8
    start: U64
    length: U64
    proc_id: U32
    client_id: String


@message(70)
class Tlink(NamedTuple):
    dfid: U32
    fid: U32
    name: String


@message(71)
class Rlink(NamedTuple):
    pass


@message(72)
class Tmkdir(NamedTuple):
    dfid: U32
    name: String
    mode: Octal
    gid: U32


@message(73)
class Rmkdir(NamedTuple):
    qid: Qid


@message(74)
class Trenameat(NamedTuple):
    olddfid: U32
    oldname: String
    newdfid: U32
    newname: String


@message(75)
class Rrenameat(NamedTuple):
    pass


@message(76)
class Tunlinkat(NamedTuple):
    dfid: U32
    name: String
    flags: Hex32


@message(77)
class Runlinkat(NamedTuple):
    pass
