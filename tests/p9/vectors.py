"""Every message as bytes, written by hand from the protocols' tables: what reader and writer must agree on.

Each field has a value that no other field of the message has, so that two fields in the wrong order, or one of the
wrong width, cannot go unnoticed. A blank stands between two fields.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect
from fusemap.qid import QID

TAG = 0x0201
HEAD = "0102"  # the same on the wire

ALL = (Dialect.BASE, Dialect.UNIX, Dialect.LINUX)
OLD = (Dialect.BASE, Dialect.UNIX)
BASE = (Dialect.BASE,)
UNIX = (Dialect.UNIX,)
NAMED = (Dialect.UNIX, Dialect.LINUX)  # with n_uname
LINUX = (Dialect.LINUX,)


class Vector(NamedTuple):
    """The bytes of a message in hexadecimal digits, and the message, in these dialects."""

    dialects: tuple[Dialect, ...]
    wire: str
    message: Any

    @property
    def frame(self) -> bytes:
        return bytes.fromhex(self.wire)


DIR = QID(0x80, 0x14131211, 0x1C1B1A1918171615)
DIR_WIRE = "80 11121314 15161718191a1b1c"
LINK = QID(0x02, 0x24232221, 0x2C2B2A2928272625)
LINK_WIRE = "02 21222324 25262728292a2b2c"

RECORD = m.StatRecord(
    type=0x3231,
    dev=0x36353433,
    qid=DIR,
    mode=0x800001ED,
    atime=0x44434241,
    mtime=0x48474645,
    length=0x5857565554535251,
    name=b"f",
    uid=b"ann",
    gid=b"gr",
    muid=b"",
)
RECORD_WIRE = f"3132 33343536 {DIR_WIRE} ed010080 41424344 45464748 5152535455565758 0100 66 0300 616e6e 0200 6772 0000"
UNIX_RECORD = RECORD._replace(extension=b"b 8 1", n_uid=0x64636261, n_gid=0x68676665, n_muid=0x6C6B6A69)
UNIX_RECORD_WIRE = f"{RECORD_WIRE} 0500 6220382031 61626364 65666768 696a6b6c"

VECTORS = [
    # All dialects
    Vector(ALL, "15000000 64 ffff 00200000 0800 395032303030 2e4c", m.Tversion(8192, b"9P2000.L")),
    Vector(ALL, "13000000 65 ffff 00001000 0600 395032303030", m.Rversion(1 << 20, b"9P2000")),
    Vector(BASE, f"16000000 66 {HEAD} 01020304 0300 616e6e 0400 2f737276", m.Tauth(0x04030201, b"ann", b"/srv")),
    Vector(
        NAMED,
        f"1a000000 66 {HEAD} 01020304 0300 616e6e 0400 2f737276 e8030000",
        m.Tauth(0x04030201, b"ann", b"/srv", 1000),
    ),
    Vector(ALL, f"14000000 67 {HEAD} {DIR_WIRE}", m.Rauth(DIR)),
    Vector(
        BASE, f"17000000 68 {HEAD} 01020304 ffffffff 0400 726f6f74 0000", m.Tattach(0x04030201, m.NOFID, b"root", b"")
    ),
    Vector(
        NAMED,
        f"1b000000 68 {HEAD} 01020304 05060708 0400 726f6f74 0000 ffffffff",
        m.Tattach(0x04030201, 0x08070605, b"root", b"", m.NONUNAME),
    ),
    Vector(ALL, f"14000000 69 {HEAD} {DIR_WIRE}", m.Rattach(DIR)),
    Vector(BASE, f"10000000 6b {HEAD} 0700 6e6f2066696c65", m.Rerror(b"no file")),
    Vector(UNIX, f"14000000 6b {HEAD} 0700 6e6f2066696c65 02000000", m.Rerror(b"no file", 2)),
    Vector(ALL, f"09000000 6c {HEAD} 0304", m.Tflush(0x0403)),
    Vector(ALL, f"07000000 6d {HEAD}", m.Rflush()),
    Vector(ALL, f"11000000 6e {HEAD} 01020304 05060708 0000", m.Twalk(0x04030201, 0x08070605, ())),
    Vector(
        ALL,
        f"1a000000 6e {HEAD} 01020304 05060708 0200 0300 757372 0200 2e2e",
        m.Twalk(0x04030201, 0x08070605, (b"usr", b"..")),
    ),
    Vector(ALL, f"09000000 6f {HEAD} 0000", m.Rwalk(())),
    Vector(ALL, f"23000000 6f {HEAD} 0200 {DIR_WIRE} {LINK_WIRE}", m.Rwalk((DIR, LINK))),
    Vector(
        ALL,
        f"17000000 74 {HEAD} 01020304 05060708090a0b0c 0d0e0f10",
        m.Tread(0x04030201, 0x0C0B0A0908070605, 0x100F0E0D),
    ),
    Vector(ALL, f"10000000 75 {HEAD} 05000000 68656c6c6f", m.Rread(b"hello")),
    Vector(ALL, f"0b000000 75 {HEAD} 00000000", m.Rread(b"")),
    Vector(
        ALL,
        f"1c000000 76 {HEAD} 01020304 05060708090a0b0c 05000000 68656c6c6f",
        m.Twrite(0x04030201, 0x0C0B0A0908070605, b"hello"),
    ),
    Vector(ALL, f"0b000000 77 {HEAD} 01020304", m.Rwrite(0x04030201)),
    Vector(ALL, f"0b000000 78 {HEAD} 01020304", m.Tclunk(0x04030201)),
    Vector(ALL, f"07000000 79 {HEAD}", m.Rclunk()),
    Vector(ALL, f"0b000000 7a {HEAD} 01020304", m.Tremove(0x04030201)),
    Vector(ALL, f"07000000 7b {HEAD}", m.Rremove()),
    # 9P2000 and 9P2000.u
    Vector(OLD, f"0c000000 70 {HEAD} 01020304 12", m.Topen(0x04030201, 0x12)),
    Vector(OLD, f"18000000 71 {HEAD} {DIR_WIRE} 01020304", m.Ropen(DIR, 0x04030201)),
    Vector(BASE, f"15000000 72 {HEAD} 01020304 0300 6e6577 ed010080 05", m.Tcreate(0x04030201, b"new", 0x800001ED, 5)),
    Vector(
        UNIX,
        f"1b000000 72 {HEAD} 01020304 0300 6e6577 ff010002 05 0400 2e2e2f78",
        m.Tcreate(0x04030201, b"new", 0x020001FF, 5, b"../x"),
    ),
    Vector(OLD, f"18000000 73 {HEAD} {LINK_WIRE} 01020304", m.Rcreate(LINK, 0x04030201)),
    Vector(OLD, f"0b000000 7c {HEAD} 01020304", m.Tstat(0x04030201)),
    Vector(BASE, f"40000000 7d {HEAD} 3700 3500 {RECORD_WIRE}", m.Rstat(RECORD)),
    Vector(UNIX, f"53000000 7d {HEAD} 4a00 4800 {UNIX_RECORD_WIRE}", m.Rstat(UNIX_RECORD)),
    Vector(BASE, f"44000000 7e {HEAD} 01020304 3700 3500 {RECORD_WIRE}", m.Twstat(0x04030201, RECORD)),
    Vector(UNIX, f"57000000 7e {HEAD} 01020304 4a00 4800 {UNIX_RECORD_WIRE}", m.Twstat(0x04030201, UNIX_RECORD)),
    Vector(OLD, f"07000000 7f {HEAD}", m.Rwstat()),
    # 9P2000.L
    Vector(LINUX, f"0b000000 07 {HEAD} 02000000", m.Rlerror(2)),
    Vector(LINUX, f"0b000000 08 {HEAD} 01020304", m.Tstatfs(0x04030201)),
    Vector(
        LINUX,
        f"43000000 09 {HEAD} 97190201 00100000 0102030405060708 1112131415161718 2122232425262728 3132333435363738 "
        "4142434445464748 5152535455565758 ff000000",
        m.Rstatfs(
            type=0x01021997,
            bsize=4096,
            blocks=0x0807060504030201,
            bfree=0x1817161514131211,
            bavail=0x2827262524232221,
            files=0x3837363534333231,
            ffree=0x4847464544434241,
            fsid=0x5857565554535251,
            namelen=255,
        ),
    ),
    Vector(LINUX, f"0f000000 0c {HEAD} 01020304 02080000", m.Tlopen(0x04030201, 0o4002)),
    Vector(LINUX, f"18000000 0d {HEAD} {DIR_WIRE} 01020304", m.Rlopen(DIR, 0x04030201)),
    Vector(
        LINUX,
        f"1c000000 0e {HEAD} 01020304 0300 6e6577 c2000000 a4810000 05060708",
        m.Tlcreate(0x04030201, b"new", 0o302, 0o100644, 0x08070605),
    ),
    Vector(LINUX, f"18000000 0f {HEAD} {DIR_WIRE} 01020304", m.Rlcreate(DIR, 0x04030201)),
    Vector(
        LINUX,
        f"18000000 10 {HEAD} 01020304 0100 6c 0400 2e2e2f78 05060708",
        m.Tsymlink(0x04030201, b"l", b"../x", 0x08070605),
    ),
    Vector(LINUX, f"14000000 11 {HEAD} {LINK_WIRE}", m.Rsymlink(LINK)),
    Vector(
        LINUX,
        f"1e000000 12 {HEAD} 01020304 0100 64 b0610000 08000000 01000000 05060708",
        m.Tmknod(0x04030201, b"d", 0o60660, 8, 1, 0x08070605),
    ),
    Vector(LINUX, f"14000000 13 {HEAD} {LINK_WIRE}", m.Rmknod(LINK)),
    Vector(LINUX, f"12000000 14 {HEAD} 01020304 05060708 0100 6e", m.Trename(0x04030201, 0x08070605, b"n")),
    Vector(LINUX, f"07000000 15 {HEAD}", m.Rrename()),
    Vector(LINUX, f"0b000000 16 {HEAD} 01020304", m.Treadlink(0x04030201)),
    Vector(LINUX, f"0d000000 17 {HEAD} 0400 2e2e2f78", m.Rreadlink(b"../x")),
    Vector(LINUX, f"13000000 18 {HEAD} 01020304 ff17000000000000", m.Tgetattr(0x04030201, 0x17FF)),
    Vector(
        LINUX,
        f"a0000000 19 {HEAD} ff3f000000000000 {DIR_WIRE} ed410000 e8030000 e9030000 0102030405060708 "
        "1112131415161718 2122232425262728 3132333435363738 4142434445464748 5152535455565758 6162636465666768 "
        "7172737475767778 8182838485868788 9192939495969798 a1a2a3a4a5a6a7a8 b1b2b3b4b5b6b7b8 c1c2c3c4c5c6c7c8 "
        "d1d2d3d4d5d6d7d8 e1e2e3e4e5e6e7e8",
        m.Rgetattr(
            valid=0x3FFF,
            qid=DIR,
            mode=0o40755,
            uid=1000,
            gid=1001,
            nlink=0x0807060504030201,
            rdev=0x1817161514131211,
            size=0x2827262524232221,
            blksize=0x3837363534333231,
            blocks=0x4847464544434241,
            atime_s=0x5857565554535251,
            atime_ns=0x6867666564636261,
            mtime_s=0x7877767574737271,
            mtime_ns=0x8887868584838281,
            ctime_s=0x9897969594939291,
            ctime_ns=0xA8A7A6A5A4A3A2A1,
            btime_s=0xB8B7B6B5B4B3B2B1,
            btime_ns=0xC8C7C6C5C4C3C2C1,
            gen=0xD8D7D6D5D4D3D2D1,
            data_version=0xE8E7E6E5E4E3E2E1,
        ),
    ),
    Vector(
        LINUX,
        f"43000000 1a {HEAD} 01020304 af010000 ed810000 e8030000 e9030000 0102030405060708 1112131415161718 "
        "2122232425262728 3132333435363738 4142434445464748",
        m.Tsetattr(
            fid=0x04030201,
            valid=0x1AF,
            mode=0o100755,
            uid=1000,
            gid=1001,
            size=0x0807060504030201,
            atime_s=0x1817161514131211,
            atime_ns=0x2827262524232221,
            mtime_s=0x3837363534333231,
            mtime_ns=0x4847464544434241,
        ),
    ),
    Vector(LINUX, f"07000000 1b {HEAD}", m.Rsetattr()),
    Vector(
        LINUX,
        f"17000000 1e {HEAD} 01020304 05060708 0600 757365722e61",
        m.Txattrwalk(0x04030201, 0x08070605, b"user.a"),
    ),
    Vector(LINUX, f"0f000000 1f {HEAD} 0102030405060708", m.Rxattrwalk(0x0807060504030201)),
    Vector(
        LINUX,
        f"1f000000 20 {HEAD} 01020304 0600 757365722e61 0102030405060708 02000000",
        m.Txattrcreate(0x04030201, b"user.a", 0x0807060504030201, 2),
    ),
    Vector(LINUX, f"07000000 21 {HEAD}", m.Rxattrcreate()),
    Vector(
        LINUX,
        f"17000000 28 {HEAD} 01020304 05060708090a0b0c 0d0e0f10",
        m.Treaddir(0x04030201, 0x0C0B0A0908070605, 0x100F0E0D),
    ),
    Vector(
        LINUX,
        f"24000000 29 {HEAD} 19000000 {DIR_WIRE} 0100000000000000 04 0100 2e",
        m.Rreaddir(bytes.fromhex(f"{DIR_WIRE} 0100000000000000 04 0100 2e")),
    ),
    Vector(LINUX, f"0f000000 32 {HEAD} 01020304 01000000", m.Tfsync(0x04030201, 1)),
    Vector(LINUX, f"07000000 33 {HEAD}", m.Rfsync()),
    Vector(
        LINUX,
        f"2b000000 34 {HEAD} 01020304 01 03000000 0102030405060708 1112131415161718 05060708 0500 6775657374",
        m.Tlock(0x04030201, 1, 3, 0x0807060504030201, 0x1817161514131211, 0x08070605, b"guest"),
    ),
    Vector(LINUX, f"08000000 35 {HEAD} 03", m.Rlock(3)),
    Vector(
        LINUX,
        f"27000000 36 {HEAD} 01020304 01 0102030405060708 1112131415161718 05060708 0500 6775657374",
        m.Tgetlock(0x04030201, 1, 0x0807060504030201, 0x1817161514131211, 0x08070605, b"guest"),
    ),
    Vector(
        LINUX,
        f"23000000 37 {HEAD} 02 0102030405060708 1112131415161718 05060708 0500 6775657374",
        m.Rgetlock(2, 0x0807060504030201, 0x1817161514131211, 0x08070605, b"guest"),
    ),
    Vector(LINUX, f"12000000 46 {HEAD} 01020304 05060708 0100 6e", m.Tlink(0x04030201, 0x08070605, b"n")),
    Vector(LINUX, f"07000000 47 {HEAD}", m.Rlink()),
    Vector(
        LINUX,
        f"16000000 48 {HEAD} 01020304 0100 64 ed030000 05060708",
        m.Tmkdir(0x04030201, b"d", 0o1755, 0x08070605),
    ),
    Vector(LINUX, f"14000000 49 {HEAD} {DIR_WIRE}", m.Rmkdir(DIR)),
    Vector(
        LINUX,
        f"16000000 4a {HEAD} 01020304 0100 61 05060708 0200 6262",
        m.Trenameat(0x04030201, b"a", 0x08070605, b"bb"),
    ),
    Vector(LINUX, f"07000000 4b {HEAD}", m.Rrenameat()),
    Vector(LINUX, f"12000000 4c {HEAD} 01020304 0100 64 00020000", m.Tunlinkat(0x04030201, b"d", 0x200)),
    Vector(LINUX, f"07000000 4d {HEAD}", m.Runlinkat()),
]
"""The whole protocol: every message, and each dialect in which it differs."""
