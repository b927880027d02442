"""Tgetattr and Tstatfs: every value is the host's."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fusemap.p9.messages import Tgetattr, Tstatfs

from .numbers import (
    GETATTR_ALL,
    GETATTR_BASIC,
    GETATTR_BTIME,
    GETATTR_DATA_VERSION,
    GETATTR_GEN,
    O_RDWR,
    QT_DIR,
    QT_SYMLINK,
)
from .place import Place

KINDS = (
    "file", "empty", "sparse", "linked", "suid", "directory", "sticky", "symlink", "fifo", "socket", "char", "block",
)  # fmt: skip


def make(place: Place, kind: str) -> Path:
    """A file of each kind, with an owner and times of its own."""
    path = place / kind
    if kind == "directory":
        path.mkdir(0o750)
    elif kind == "sticky":
        path.mkdir()
        path.chmod(0o3777)
    elif kind == "symlink":
        os.symlink("aim", path)
    elif kind == "fifo":
        os.mkfifo(path, 0o640)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as plug:
            plug.bind(str(path))
    elif kind in ("char", "block"):
        try:
            os.mknod(path, (stat.S_IFCHR if kind == "char" else stat.S_IFBLK) | 0o600, os.makedev(259, 70001))
        except PermissionError:
            pytest.skip("this machine makes no device nodes")
    else:
        path.write_bytes(b"" if kind == "empty" else b"content" * 1000)
        if kind == "sparse":
            os.truncate(path, 1 << 33)
        if kind == "linked":
            os.link(path, place / "another")
    os.chown(path, 1234, 70000, follow_symlinks=False)
    if kind == "suid":
        path.chmod(0o6751)
    os.utime(path, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321), follow_symlinks=False)
    return path


def ns(told: Any, name: str) -> int:
    """A time in nanoseconds since 1970."""
    seconds: int = getattr(told, f"{name}_s")
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * 10**9 + int(getattr(told, f"{name}_ns"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_is_the_hosts(place: Place, kind: str) -> None:
    st = os.lstat(make(place, kind))
    fid = place.walk(kind)
    told = place.client.getattr(fid, GETATTR_BASIC)
    assert told.valid & GETATTR_BASIC == GETATTR_BASIC
    assert told.mode == st.st_mode
    assert (told.uid, told.gid) == (1234, 70000)
    assert told.nlink == st.st_nlink
    assert told.rdev == st.st_rdev
    assert told.size == st.st_size
    assert told.blocks == st.st_blocks
    assert told.blksize >= 512
    assert ns(told, "atime") == st.st_atime_ns
    assert ns(told, "mtime") == st.st_mtime_ns
    assert ns(told, "ctime") == st.st_ctime_ns
    assert told.qid.type == {"directory": QT_DIR, "sticky": QT_DIR, "symlink": QT_SYMLINK}.get(kind, 0)


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_the_time_of_birth(place: Place, kind: str) -> None:
    path = make(place, kind)
    told = place.client.getattr(place.walk(kind), GETATTR_ALL)
    born = subprocess.run(["stat", "-c", "%.9W", path], check=True, capture_output=True, text=True).stdout.strip()
    if told.valid & GETATTR_BTIME:
        assert ns(told, "btime") == int(born.replace(".", ""))
    else:
        assert not place.target.ours or int(born.replace(".", "")) == 0
        assert (told.btime_s, told.btime_ns) == (0, 0)


def test_the_generation_stays(place: Place) -> None:
    path = make(place, "file")
    fid = place.walk("file")
    told = place.client.getattr(fid, GETATTR_BASIC | GETATTR_GEN)
    path.write_bytes(b"changed")
    os.rename(path, place / "renamed")
    again = place.connect()
    assert again.getattr(place.walk("renamed", client=again), GETATTR_BASIC | GETATTR_GEN).gen == told.gen
    assert told.valid & GETATTR_GEN or told.gen == 0


def test_the_data_version_follows_the_content(place: Place) -> None:
    place.file("f", b"content")
    fid = place.open("f", flags=O_RDWR)
    told = place.client.getattr(fid, GETATTR_ALL)
    if not told.valid & GETATTR_DATA_VERSION:
        assert told.data_version == 0
        pytest.skip("the server has no data version")
    place.client.read(fid)
    assert place.client.getattr(fid).data_version == told.data_version
    place.client.write(fid, b"CONTENT")
    second = place.client.getattr(fid).data_version
    assert second != told.data_version
    (place / "f").write_bytes(b"by the host")
    assert place.client.getattr(fid).data_version not in (told.data_version, second)


MASKS = (0, 1, GETATTR_BASIC, GETATTR_BASIC | GETATTR_GEN, GETATTR_ALL, 1 << 63, (1 << 64) - 1)


@pytest.mark.parametrize("mask", MASKS, ids=hex)
def test_any_mask_is_answered(place: Place, mask: int) -> None:
    told = place.client.getattr(place.fid, mask)
    assert told.valid & mask & GETATTR_BASIC == mask & GETATTR_BASIC
    assert told.valid <= GETATTR_ALL


@pytest.mark.parametrize("seconds", [0, -1, -(1 << 31), (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 33], ids=str)
def test_times_long_ago_and_to_come(place: Place, seconds: int) -> None:
    path = place.file("f")
    os.utime(path, ns=(seconds * 10**9 + 5, seconds * 10**9 + 123_456_789))
    st = os.lstat(path)
    told = place.client.getattr(place.walk("f"))
    assert (ns(told, "atime"), ns(told, "mtime")) == (st.st_atime_ns, st.st_mtime_ns)
    assert told.mtime_ns < 10**9


@pytest.mark.parametrize("owner", [0, 1, 65534, 65536, 0x7FFFFFFF, 0xFFFFFFFE])
def test_any_owner(place: Place, owner: int) -> None:
    os.chown(place.file("f"), owner, owner)
    told = place.client.getattr(place.walk("f"))
    assert (told.uid, told.gid) == (owner, owner)


def test_the_same_on_an_open_fid(place: Place) -> None:
    make(place, "file")
    closed, opened = place.walk("file"), place.open("file")
    assert place.client.getattr(opened) == place.client.getattr(closed)


def test_what_the_host_changes_is_seen(place: Place) -> None:
    path = place.file("f", b"content")
    fid, opened = place.walk("f"), place.open("f")
    path.write_bytes(b"longer content")
    path.chmod(0o751)
    for one in (fid, opened):
        told = place.client.getattr(one)
        assert (told.size, told.mode & 0o7777) == (14, 0o751)


def test_the_values_of_a_mount_point_are_those_of_what_is_mounted(place: Place) -> None:
    mounts = place.mounts()
    for path in mounts:
        st = os.stat(path)
        told = place.client.getattr(place.client.walk(place.client.root, path.name))
        assert (told.mode, told.nlink, told.size) == (st.st_mode, st.st_nlink, st.st_size)
        assert ns(told, "ctime") == st.st_ctime_ns


def test_a_file_that_the_host_has_removed(place: Place) -> None:
    path = place.file("f")
    fid = place.walk("f")
    path.unlink()
    place.file("other")
    answer = place.client.ask(Tgetattr(fid, GETATTR_BASIC))
    assert getattr(answer, "nlink", 0) == 0  # an error, or a file without a name


@pytest.mark.parametrize("where", ["root", "mounts"])
def test_statfs_is_the_hosts(place: Place, where: str) -> None:
    for path in [place.target.export] if where == "root" else place.mounts():
        client = place.client
        fid = client.root if path == place.target.export else client.walk(client.root, path.name)
        told, here = client.call(Tstatfs(fid)), os.statvfs(path)
        assert told.namelen == here.f_namemax
        assert told.blocks * told.bsize == here.f_blocks * here.f_frsize
        assert told.files == here.f_files
        assert abs(told.bfree * told.bsize - here.f_bfree * here.f_frsize) < 1 << 22
        assert told.bavail <= told.bfree <= told.blocks
        assert told.ffree <= told.files


def test_statfs_of_files_of_every_kind(place: Place) -> None:
    whole = place.client.call(Tstatfs(place.client.root)).blocks
    for kind in ("file", "directory", "symlink", "fifo"):
        make(place, kind)
        assert place.client.call(Tstatfs(place.walk(kind))).blocks == whole
    assert place.client.call(Tstatfs(place.open("file"))).blocks == whole
