"""9P2000 and 9P2000.u: Tstat, Twstat, and directories, which are read as stat records - stat(5), read(5)."""

from __future__ import annotations

import os
import stat
from typing import Any, Final

import pytest

from fusemap.p9.messages import Rerror, StatRecord, Tcreate, Tread, Tstat, Twstat
from fusemap.p9.wire import Dialect, encode_record
from fusemap.qid import QID

from ..answers import records
from .numbers import (
    DM_DEVICE,
    DM_DIR,
    DM_LINK,
    DM_PIPE,
    DM_SETGID,
    DM_SETUID,
    DM_SOCKET,
    DM_SYMLINK,
    OREAD,
    QT_SYMLINK,
)
from .place import Place

U32: Final = 0xFFFFFFFF
U64: Final = 0xFFFFFFFFFFFFFFFF
# "don't touch", each field at its own width
LEAVE: Final = StatRecord(
    0xFFFF, U32, QID(0xFF, U32, U64), U32, U32, U32, U64, b"", b"", b"", b"", b"", U32, U32, U32
)  # fmt: skip


def told(place: Place, *names: str) -> StatRecord:
    """What Tstat says of a file."""
    return place.client.call(Tstat(place.walk(*names))).stat  # type: ignore[no-any-return]


def change(place: Place, which: str, /, **values: Any) -> Any:
    """A Twstat that changes only `values`; the answer."""
    return place.client.ask(Twstat(place.walk(which), LEAVE._replace(**values)))


def seen(place: Place, name: str) -> tuple[int, ...]:
    st = os.lstat(place / name)
    return st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns


def listing(place: Place, fid: int, count: int) -> list[StatRecord]:
    """A directory, read to its end."""
    found: list[StatRecord] = []
    offset = 0
    while True:
        data = place.client.read(fid, offset, count)
        if not data:
            return found
        assert len(data) <= count
        found += records(data, place.dialect)
        offset += len(data)


def test_a_file(plain: Place) -> None:
    path = plain.file("f", b"content")
    path.chmod(0o640)
    os.utime(path, (1_000_000_000, 1_234_567_890))
    record = told(plain, "f")
    assert record.name == b"f"
    assert record.length == 7
    assert record.mode == 0o640
    assert (record.atime, record.mtime) == (1_000_000_000, 1_234_567_890)
    assert record.qid == plain.client.qid(plain.walk("f"))
    assert record.qid.type == 0
    assert record.uid
    assert record.gid


def test_a_directory(plain: Place) -> None:
    (plain / "d").mkdir(0o750)
    record = told(plain, "d")
    assert record.mode == DM_DIR | 0o750
    assert record.length == 0
    assert record.qid.type == 0x80
    assert record.name == b"d"


def test_the_root_is_called_slash(plain: Place) -> None:
    record = plain.client.call(Tstat(plain.client.root)).stat
    assert record.name == b"/"
    assert record.mode & DM_DIR


def test_the_type_of_the_qid_is_the_top_of_the_mode(plain: Place) -> None:
    plain.file("f")
    (plain / "d").mkdir()
    for name in ("f", "d"):
        record = told(plain, name)
        assert record.qid.type & 0x80 == record.mode >> 24 & 0x80


def test_users_and_groups(unix: Place) -> None:
    path = unix.file("f")
    os.chown(path, 0, 54321)
    record = told(unix, "f")
    assert (record.n_uid, record.n_gid) == (0, 54321)
    assert record.uid == b"root"
    assert record.gid  # a number in words, or nothing better


def test_special_bits_and_kinds(unix: Place) -> None:
    path = unix.file("f")
    path.chmod(0o6755)
    os.symlink("aim", unix / "l")
    os.mkfifo(unix / "fifo")
    assert told(unix, "f").mode == DM_SETUID | DM_SETGID | 0o755
    assert told(unix, "fifo").mode & DM_PIPE
    record = told(unix, "l")
    assert record.mode & DM_SYMLINK
    assert record.extension == b"aim"
    assert record.qid.type == QT_SYMLINK
    assert told(unix, "f").extension == b"" or told(unix, "f").extension.startswith(b"HARDLINKCOUNT")


def test_a_device(unix: Place) -> None:
    try:
        os.mknod(unix / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this machine makes no device nodes")
    record = told(unix, "null")
    assert record.mode & DM_DEVICE
    assert record.extension == b"c 1 3"


def test_nothing_touched(plain: Place) -> None:
    path = plain.file("f", b"content")
    os.utime(path, (1, 2))
    before = seen(plain, "f")
    assert not isinstance(change(plain, "f"), Rerror)  # stat(5): then the file is to be on stable storage
    assert seen(plain, "f") == before
    assert not isinstance(plain.client.ask(Twstat(plain.fid, LEAVE)), Rerror)


@pytest.mark.parametrize("mode", [0o600, 0o755, 0o000])
def test_mode(plain: Place, mode: int) -> None:
    path = plain.file("f", b"content")
    os.utime(path, (1, 2))
    before = seen(plain, "f")
    assert not isinstance(change(plain, "f", mode=mode), Rerror)
    assert seen(plain, "f") == (stat.S_IFREG | mode, *before[1:])


def test_mode_of_a_directory(plain: Place) -> None:
    (plain / "d").mkdir()
    assert not isinstance(change(plain, "d", mode=DM_DIR | 0o700), Rerror)
    assert seen(plain, "d")[0] == 0o40700


def test_a_directory_does_not_become_a_file_nor_the_reverse(plain: Place) -> None:
    (plain / "d").mkdir()
    plain.file("f")
    assert isinstance(change(plain, "f", mode=DM_DIR | 0o755), Rerror)
    assert isinstance(change(plain, "d", mode=0o755), Rerror)
    assert (plain / "d").is_dir()
    assert (plain / "f").is_file()


def test_mtime(plain: Place) -> None:
    plain.file("f", b"content")
    before = seen(plain, "f")
    assert not isinstance(change(plain, "f", mtime=1_234_567_890), Rerror)
    assert seen(plain, "f") == (*before[:4], 1_234_567_890 * 10**9)


@pytest.mark.parametrize("length", [0, 3, 7, 1000])
def test_length(plain: Place, length: int) -> None:
    plain.file("f", b"content")
    assert not isinstance(change(plain, "f", length=length), Rerror)
    assert (plain / "f").read_bytes() == (b"content" + bytes(993))[:length]


def test_length_of_a_directory(plain: Place) -> None:
    (plain / "d").mkdir()
    assert isinstance(change(plain, "d", length=5), Rerror)


def test_a_new_name(plain: Place) -> None:
    plain.file("f", b"content")
    fid = plain.walk("f")
    assert not isinstance(plain.client.ask(Twstat(fid, LEAVE._replace(name=b"g"))), Rerror)
    assert os.listdir(plain.host) == ["g"]
    assert plain.client.call(Tstat(fid)).stat.name == b"g"
    assert plain.client.qid(fid).path == plain.client.qid(plain.walk("g")).path


def test_a_new_name_for_a_directory(plain: Place) -> None:
    (plain / "d" / "x").mkdir(parents=True)
    assert not isinstance(change(plain, "d", name=b"e"), Rerror)
    assert (plain / "e" / "x").is_dir()


def test_a_name_that_is_there(plain: Place) -> None:
    """stat(5): it is an error to change the name to that of an existing file. In .u it is Linux's rename(2) as well."""
    plain.file("f", b"content")
    plain.file("g", b"another")
    answer = change(plain, "f", name=b"g")
    if isinstance(answer, Rerror):
        assert (plain / "f").read_bytes() == b"content"
        assert (plain / "g").read_bytes() == b"another"
    else:
        assert plain.dialect is Dialect.UNIX
        assert (plain / "g").read_bytes() == b"content"


def test_its_own_name(plain: Place) -> None:
    plain.file("f", b"content")
    assert not isinstance(change(plain, "f", name=b"f", mode=0o600), Rerror)
    assert seen(plain, "f")[0] & 0o7777 == 0o600


@pytest.mark.parametrize("name", [b".", b"..", b"a/b", b"/a", b"../a", b"a\0b"], ids=lambda n: ascii(n)[2:-1])
def test_what_is_no_name(plain: Place, name: bytes) -> None:
    plain.file("f", b"content")
    client = plain.connect()
    client.refuses(Twstat(plain.walk("f", client=client), LEAVE._replace(name=name)))
    assert os.listdir(plain.host) == ["f"]


def test_the_root_has_no_other_name(plain: Place) -> None:
    assert isinstance(plain.client.ask(Twstat(plain.client.root, LEAVE._replace(name=b"new"))), Rerror)


def test_all_or_nothing(plain: Place) -> None:
    """stat(5): either all the changes in a wstat are made, or none is."""
    plain.file("f", b"content")
    (plain / "g").mkdir()
    before = seen(plain, "f")
    assert isinstance(change(plain, "f", name=b"g", mode=0o600, length=3, mtime=5), Rerror)
    assert seen(plain, "f") == before


def test_several_at_once(plain: Place) -> None:
    plain.file("f", b"content")
    assert not isinstance(change(plain, "f", name=b"g", mode=0o600, length=3, mtime=5), Rerror)
    st = os.lstat(plain / "g")
    assert (st.st_mode, st.st_size, st.st_mtime) == (0o100600, 3, 5)


@pytest.mark.parametrize("field", ["type", "dev", "qid", "muid"])
def test_what_cannot_be_changed(plain: Place, field: str) -> None:
    plain.file("f", b"content")
    value: Any = {"qid": QID(0, 1, 2), "muid": b"somebody"}.get(field, 7)
    answer = change(plain, "f", **{field: value})
    assert isinstance(answer, Rerror) or told(plain, "f").name == b"f"
    assert (plain / "f").read_bytes() == b"content"


def test_owners(unix: Place) -> None:
    unix.file("f", b"content")
    before = seen(unix, "f")
    assert not isinstance(change(unix, "f", n_uid=1234, n_gid=54321), Rerror)
    assert seen(unix, "f") == (before[0], 1234, 54321, *before[3:])
    assert not isinstance(change(unix, "f", n_gid=77), Rerror)
    assert seen(unix, "f")[1:3] == (1234, 77)


def test_setuid_by_wstat(unix: Place) -> None:
    unix.file("f", b"content")
    assert not isinstance(change(unix, "f", mode=DM_SETUID | 0o755), Rerror)
    assert seen(unix, "f")[0] & 0o7777 == 0o4755


# Making what has no name in 9P2000


def test_a_symlink_is_made(unix: Place) -> None:
    fid = unix.walk()
    answer = unix.client.call(Tcreate(fid, b"l", DM_SYMLINK | 0o777, OREAD, b"../aim"))
    assert os.readlink(unix / "l") == "../aim"
    assert answer.qid.type == QT_SYMLINK


def test_a_fifo_and_a_socket_are_made(unix: Place) -> None:
    unix.client.call(Tcreate(unix.walk(), b"fifo", DM_PIPE | 0o640, OREAD, b""))
    unix.client.call(Tcreate(unix.walk(), b"socket", DM_SOCKET | 0o640, OREAD, b""))
    assert stat.S_ISFIFO(os.lstat(unix / "fifo").st_mode)
    assert stat.S_ISSOCK(os.lstat(unix / "socket").st_mode)


def test_a_device_is_made(unix: Place) -> None:
    unix.client.call(Tcreate(unix.walk(), b"null", DM_DEVICE | 0o666, OREAD, b"c 1 3"))
    st = os.lstat(unix / "null")
    assert stat.S_ISCHR(st.st_mode)
    assert (os.major(st.st_rdev), os.minor(st.st_rdev)) == (1, 3)


NO_DEVICES = (b"", b"x 1 3", b"c", b"c 1", b"c a b", b"c 1 3 5 7", b"c -1 3", b"b 99999999999 1")


@pytest.mark.parametrize("extension", NO_DEVICES, ids=lambda e: e.decode() or "empty")
def test_what_is_no_device(unix: Place, extension: bytes) -> None:
    unix.client.fails(Tcreate(unix.walk(), b"n", DM_DEVICE | 0o666, OREAD, extension))
    assert os.listdir(unix.host) == []


def test_a_hard_link_is_made(unix: Place) -> None:
    unix.file("f", b"content")
    other = unix.walk("f")
    unix.client.call(Tcreate(unix.walk(), b"g", DM_LINK | 0o644, OREAD, b"%d" % other))
    assert os.path.samefile(unix / "f", unix / "g")
    for extension in (b"", b"x", b"99999", b"-1"):
        unix.client.fails(Tcreate(unix.walk(), b"h", DM_LINK | 0o644, OREAD, extension))


# Directories


@pytest.mark.parametrize("count", [200, 500, 4096, 60000])
def test_every_name_once(plain: Place, count: int) -> None:
    for n in range(150):
        plain.file(f"{n:03}" + "x" * (n % 100))
    names = [record.name for record in listing(plain, plain.open(), count)]
    assert sorted(names) == sorted(os.listdir(os.fsencode(plain.host)))  # and no "." nor ".."


def test_an_empty_directory(plain: Place) -> None:
    assert plain.client.read(plain.open()) == b""


def test_records_are_those_of_stat(plain: Place) -> None:
    plain.file("f", b"content")
    (plain / "d").mkdir()
    for record in listing(plain, plain.open(), 8192):
        assert record == told(plain, record.name.decode())


def test_the_beginning_again(plain: Place) -> None:
    for n in range(30):
        plain.file(str(n))
    fid = plain.open()
    first = plain.client.read(fid, 0, 300)
    plain.client.read(fid, len(first), 300)
    assert plain.client.read(fid, 0, 300) == first
    plain.file("new")
    assert b"new" in [record.name for record in listing(plain, fid, 500)]


def test_any_other_offset_is_an_error(plain: Place) -> None:
    """read(5): a directory is read from 0, or from where the read before it ended."""
    for n in range(30):
        plain.file(str(n))
    fid = plain.open()
    size = len(plain.client.read(fid, 0, 300))
    for offset in (1, size - 1, size + 1, 1 << 40, (1 << 64) - 1):
        plain.client.fails(Tread(fid, offset, 300))
    assert plain.client.read(fid, size, 300)


def test_a_count_too_small_for_a_record_is_an_error(plain: Place) -> None:
    plain.file("n" * 200)
    fid = plain.open()
    for count in (1, 48, 200):
        plain.client.fails(Tread(fid, 0, count))
    assert plain.client.read(fid, 0, 1000)


def test_a_record_is_as_long_as_it_says(plain: Place) -> None:
    plain.file("f")
    data = plain.client.read(plain.open())
    (record,) = records(data, plain.dialect)
    assert data == encode_record(record, plain.dialect)
    assert len(data) == 49 + len(record.name + record.uid + record.gid + record.muid + record.extension) + (
        14 if plain.dialect is Dialect.UNIX else 0
    )


def test_mount_points(plain: Place) -> None:
    client = plain.client
    mounts = {os.fsencode(path.name) for path in plain.mounts()}
    found = {record.name: record.qid for record in listing(plain, client.open(client.root), 8192)}
    for name in mounts:
        assert found[name] == client.qid(client.walk(client.root, name))
    assert len({found[name].path for name in mounts}) == len(mounts)
