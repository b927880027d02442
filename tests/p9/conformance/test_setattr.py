"""Tsetattr: each bit alone, and what it must leave as it is; Tfsync."""

from __future__ import annotations

import os
import stat
import time
from typing import Any

import pytest

from fusemap.p9.messages import Tfsync, Tsetattr

from .numbers import (
    EFBIG,
    EINVAL,
    EISDIR,
    O_RDONLY,
    O_RDWR,
    SET_ATIME,
    SET_ATIME_SET,
    SET_CTIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_SET,
    SET_SIZE,
    SET_UID,
)
from .place import Place

COARSE = 5  # CLOCK_REALTIME_COARSE, which files are stamped by
OLD = 1_234_567_890_123_456_789
WANTED = {
    "mode": 0o640, "uid": 4321, "gid": 54321, "size": 3, "atime_s": 5,
    "atime_ns": 123_456_789, "mtime_s": 1 << 32, "mtime_ns": 987_654_321,
}  # fmt: skip


def set_attributes(fid: int, valid: int, **values: Any) -> Tsetattr:
    """A Tsetattr with values in every field that must not count unless its bit is set."""
    return Tsetattr(**{"fid": fid, "valid": valid, **WANTED, **values})


def seen(place: Place, name: str = "f") -> dict[str, Any]:
    """What a Tsetattr can change."""
    st = os.lstat(place / name)
    return {
        "mode": st.st_mode, "uid": st.st_uid, "gid": st.st_gid, "size": st.st_size,
        "atime": st.st_atime_ns, "mtime": st.st_mtime_ns,
    }  # fmt: skip


@pytest.fixture
def prepared(place: Place) -> Place:
    """A file "f" with times of long ago."""
    place.file("f", b"content")
    os.utime(place / "f", ns=(OLD, OLD))
    return place


ALONE = {
    "nothing": (0, {}),
    "mode": (SET_MODE, {"mode": 0o100640}),
    "uid": (SET_UID, {"uid": 4321}),
    "gid": (SET_GID, {"gid": 54321}),
    "owner": (SET_UID | SET_GID, {"uid": 4321, "gid": 54321}),
    "atime": (SET_ATIME | SET_ATIME_SET, {"atime": 5_123_456_789}),
    "mtime": (SET_MTIME | SET_MTIME_SET, {"mtime": (1 << 32) * 10**9 + 987_654_321}),
    "ctime": (SET_CTIME, {}),
}


@pytest.mark.parametrize("opened", [False, True], ids=["walked", "open"])
@pytest.mark.parametrize("bit", ALONE)
def test_a_bit_alone_changes_what_it_says(prepared: Place, bit: str, opened: bool) -> None:
    valid, changes = ALONE[bit]
    before = seen(prepared)
    fid = prepared.open("f", flags=O_RDWR) if opened else prepared.walk("f")
    prepared.client.call(set_attributes(fid, valid))
    assert seen(prepared) == {**before, **changes}


@pytest.mark.parametrize("opened", [False, True], ids=["walked", "open"])
@pytest.mark.parametrize("size", [0, 3, 7, 100, 1 << 33])
def test_size(prepared: Place, size: int, opened: bool) -> None:
    fid = prepared.open("f", flags=O_RDWR) if opened else prepared.walk("f")
    prepared.client.call(set_attributes(fid, SET_SIZE, size=size))
    after = seen(prepared)
    assert after["size"] == size
    assert (after["mode"], after["uid"]) == (0o100644, 0)
    with open(prepared / "f", "rb") as file:
        assert file.read(100) == (b"content" + bytes(93))[: min(size, 100)]


@pytest.mark.parametrize("which", ["atime", "mtime", "both"])
def test_now(prepared: Place, which: str) -> None:
    valid = {"atime": SET_ATIME, "mtime": SET_MTIME, "both": SET_ATIME | SET_MTIME}[which]
    before = time.clock_gettime_ns(time.CLOCK_REALTIME) - 50_000_000  # a file's clock ticks more slowly
    prepared.client.call(set_attributes(prepared.walk("f"), valid))
    after = time.clock_gettime_ns(time.CLOCK_REALTIME)
    now = seen(prepared)
    for name in ("atime", "mtime"):
        if which in (name, "both"):
            assert before <= now[name] <= after
        else:
            assert now[name] == OLD


def test_both_times_at_once(prepared: Place) -> None:
    valid = SET_ATIME | SET_ATIME_SET | SET_MTIME | SET_MTIME_SET
    prepared.client.call(set_attributes(prepared.walk("f"), valid))
    now = seen(prepared)
    assert (now["atime"], now["mtime"]) == (5_123_456_789, (1 << 32) * 10**9 + 987_654_321)


def test_one_time_set_and_the_other_now(prepared: Place) -> None:
    prepared.client.call(set_attributes(prepared.walk("f"), SET_ATIME | SET_MTIME | SET_MTIME_SET))
    now = seen(prepared)
    assert now["mtime"] == (1 << 32) * 10**9 + 987_654_321
    assert now["atime"] > OLD


def test_everything_at_once(prepared: Place) -> None:
    valid = SET_MODE | SET_UID | SET_GID | SET_SIZE | SET_ATIME | SET_ATIME_SET | SET_MTIME | SET_MTIME_SET
    prepared.client.call(set_attributes(prepared.walk("f"), valid))
    assert seen(prepared) == {
        "mode": 0o100640, "uid": 4321, "gid": 54321, "size": 3,
        "atime": 5_123_456_789, "mtime": (1 << 32) * 10**9 + 987_654_321,
    }  # fmt: skip


def test_mode_has_all_twelve_bits_and_no_more(prepared: Place) -> None:
    for mode in (0o7777, 0o104711, 0o0, 0o40755, 0o100600):  # Linux sends the type along
        prepared.client.call(set_attributes(prepared.walk("f"), SET_MODE, mode=mode))
        assert seen(prepared)["mode"] == stat.S_IFREG | mode & 0o7777


def test_ctime_alone_changes_the_ctime(prepared: Place) -> None:
    before = os.lstat(prepared / "f").st_ctime_ns
    while time.clock_gettime_ns(COARSE) <= before:
        time.sleep(0.001)  # the next tick of the clock for files
    prepared.client.call(set_attributes(prepared.walk("f"), SET_CTIME))
    assert os.lstat(prepared / "f").st_ctime_ns > before


def test_a_directory(place: Place) -> None:
    (place / "d").mkdir()
    fid = place.walk("d")
    valid = SET_MODE | SET_UID | SET_GID | SET_ATIME | SET_ATIME_SET | SET_MTIME | SET_MTIME_SET
    place.client.call(set_attributes(fid, valid, mode=0o2750))
    now = seen(place, "d")
    assert (now["mode"], now["uid"], now["gid"], now["atime"]) == (0o42750, 4321, 54321, 5_123_456_789)
    place.client.fails(set_attributes(fid, SET_SIZE), EISDIR)


def test_a_symlink_and_not_what_it_points_to(prepared: Place) -> None:
    os.symlink("f", prepared / "l")
    before, mode = seen(prepared), os.lstat(prepared / "l").st_mode
    client = prepared.client
    fid = prepared.walk("l")
    client.call(set_attributes(fid, SET_UID | SET_GID))
    client.call(set_attributes(fid, SET_ATIME | SET_ATIME_SET | SET_MTIME | SET_MTIME_SET))
    now = seen(prepared, "l")
    assert (now["uid"], now["gid"], now["atime"]) == (4321, 54321, 5_123_456_789)
    client.ask(set_attributes(fid, SET_MODE))  # Linux's own symlinks have no mode of their own
    assert os.lstat(prepared / "l").st_mode == mode
    client.fails(set_attributes(fid, SET_SIZE))
    assert seen(prepared) == before


def test_a_symlink_out_of_the_export(place: Place) -> None:
    secret = place.outside()
    before = os.lstat(secret)
    os.symlink(secret, place / "l")
    fid = place.walk("l")
    for valid in (SET_MODE, SET_UID, SET_SIZE, SET_MTIME | SET_MTIME_SET, SET_MTIME):
        place.client.ask(set_attributes(fid, valid))
    assert os.lstat(secret) == before


def test_special_files_do_not_make_it_wait(place: Place) -> None:
    os.mkfifo(place / "fifo")
    fid = place.walk("fifo")
    place.client.call(set_attributes(fid, SET_MODE | SET_UID | SET_GID | SET_MTIME))
    assert seen(place, "fifo")["mode"] == stat.S_IFIFO | 0o640
    place.client.fails(set_attributes(fid, SET_SIZE))


@pytest.mark.parametrize("size", [1 << 63, (1 << 63) - 1, (1 << 64) - 1])
def test_an_impossible_size(prepared: Place, size: int) -> None:
    prepared.client.fails(set_attributes(prepared.walk("f"), SET_SIZE, size=size), EFBIG, EINVAL)
    assert (prepared / "f").read_bytes() == b"content"


def test_an_impossible_time(prepared: Place) -> None:
    before = seen(prepared)
    valid = SET_MTIME | SET_MTIME_SET
    prepared.client.fails(set_attributes(prepared.walk("f"), valid, mtime_ns=10**9), EINVAL)
    # what utimensat(2) takes for "now" and "leave" is no time of 9P
    prepared.client.fails(set_attributes(prepared.walk("f"), valid, mtime_ns=(1 << 30) - 1), EINVAL)
    prepared.client.fails(set_attributes(prepared.walk("f"), valid, mtime_ns=(1 << 30) - 2), EINVAL)
    prepared.client.fails(set_attributes(prepared.walk("f"), valid, mtime_ns=(1 << 32) + 5), EINVAL)
    assert seen(prepared) == before


def test_a_time_before_1970(prepared: Place) -> None:
    valid = SET_MTIME | SET_MTIME_SET
    prepared.client.call(set_attributes(prepared.walk("f"), valid, mtime_s=(1 << 64) - 10, mtime_ns=0))
    assert seen(prepared)["mtime"] == -10 * 10**9


def test_size_on_a_fid_that_is_open_for_reading_only(prepared: Place) -> None:
    """Linux sends truncate(2) with any fid of the file."""
    prepared.client.call(set_attributes(prepared.open("f", flags=O_RDONLY), SET_SIZE))
    assert (prepared / "f").read_bytes() == b"con"


def test_size_of_a_file_without_permissions(prepared: Place) -> None:
    """ftruncate(2) works by a descriptor whatever has become of the mode; root may do it anyway."""
    fid = prepared.open("f", flags=O_RDWR)
    (prepared / "f").chmod(0)
    prepared.client.call(set_attributes(fid, SET_SIZE))
    assert os.lstat(prepared / "f").st_size == 3


@pytest.mark.parametrize("datasync", [0, 1])
def test_fsync(place: Place, datasync: int) -> None:
    place.file("f")
    fid = place.open("f", flags=O_RDWR)
    place.client.write(fid, b"content")
    place.client.call(Tfsync(fid, datasync))
    place.client.call(Tfsync(place.open("f"), datasync))
    assert (place / "f").read_bytes() == b"content"


def test_fsync_of_a_directory(place: Place) -> None:
    place.client.call(Tfsync(place.open(), 0))


def test_fsync_as_older_clients_send_it(place: Place) -> None:
    """Without the field datasync, as before Linux 2.6.38."""
    place.file("f")
    fid = place.open("f", flags=O_RDWR)
    client = place.client
    tag = client.next_tag()
    client._used[tag] = 1
    client.send_bytes(b"\x0b\0\0\0\x32" + tag.to_bytes(2, "little") + fid.to_bytes(4, "little"))
    assert type(client.wait(tag)).__name__ == "Rfsync"
