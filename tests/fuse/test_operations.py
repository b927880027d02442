"""The request handlers called directly: errors at the boundary, look-up counts, attributes, data; no mount."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest
import trio

from fusemap.errors import MappingExhausted
from fusemap.fuse.attributes import CACHES, fill
from fusemap.fuse.operations import Operations
from fusemap.host.calls import Calls
from fusemap.qid import Mapper
from fusemap.tree import Node, Tree

from ..support import needs
from ..support.stage import Stage

ROOT = pyfuse3.ROOT_INODE
CONTEXT: Any = SimpleNamespace(uid=os.geteuid(), gid=os.getegid(), pid=os.getpid(), umask=0o022)


@pytest.fixture
def source(stage: Stage) -> Path:
    needs.root()
    path = stage.tmpfs("src")
    (path / "f").write_bytes(b"0123456789")
    (path / "d").mkdir()
    return path


@pytest.fixture(params=["none", "auto", "always"])
def operations(request: pytest.FixtureRequest, source: Path) -> Iterator[Operations]:
    made = Operations(Tree(source, Mapper()), CACHES[request.param])
    yield made
    made.close()


async def test_errors_of_the_host_become_fuse_errors(operations: Operations) -> None:
    file = await operations.lookup(ROOT, b"f", CONTEXT)
    for expected, act in (
        ("ENOENT", lambda: operations.lookup(ROOT, b"missing", CONTEXT)),
        ("ENAMETOOLONG", lambda: operations.lookup(ROOT, b"x" * 256, CONTEXT)),
        ("ESTALE", lambda: operations.getattr(12345, CONTEXT)),
        ("EEXIST", lambda: operations.mkdir(ROOT, b"d", 0o755, CONTEXT)),
        ("ENOTDIR", lambda: operations.lookup(file.st_ino, b"x", CONTEXT)),
        ("ENODATA", lambda: operations.getxattr(file.st_ino, b"user.none", CONTEXT)),
        ("ENOTEMPTY", lambda: _fill_and_remove(operations)),
    ):
        with pytest.raises(pyfuse3.FUSEError) as failed:
            await act()
        assert errno.errorcode[failed.value.errno] == expected


async def _fill_and_remove(operations: Operations) -> None:
    directory = await operations.lookup(ROOT, b"d", CONTEXT)
    await operations.mkdir(directory.st_ino, b"inside", 0o755, CONTEXT)
    await operations.rmdir(ROOT, b"d", CONTEXT)


@pytest.mark.parametrize(
    ("bug", "expected", "logged"),
    [
        (ValueError("a bug on purpose"), errno.EIO, True),
        (RecursionError("too deep"), errno.EIO, True),
        (OSError("without a number"), errno.EIO, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.EDQUOT, False),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), errno.ETIMEDOUT, False),
        (MappingExhausted(), errno.ENFILE, False),
        (pyfuse3.FUSEError(errno.EPERM), errno.EPERM, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_nothing_but_fuse_errors_leaves_a_handler(
    operations: Operations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    bug: Exception, expected: int, logged: bool,
) -> None:  # fmt: skip
    """Any other exception would end the whole mount."""

    def broken(*_: object) -> object:
        raise bug

    for name in ("lookup", "node", "stat"):
        monkeypatch.setattr(operations.tree, name, broken)
    entry, fields = pyfuse3.EntryAttributes(), cast("Any", SimpleNamespace())
    everything: list[Callable[[], Any]] = [
        lambda: operations.lookup(ROOT, b"f", CONTEXT),
        lambda: operations.getattr(5, CONTEXT),
        lambda: operations.setattr(5, entry, fields, None, CONTEXT),
        lambda: operations.readlink(5, CONTEXT),
        lambda: operations.mknod(5, b"x", stat.S_IFREG, 0, CONTEXT),
        lambda: operations.mkdir(5, b"x", 0, CONTEXT),
        lambda: operations.symlink(5, b"x", b"y", CONTEXT),
        lambda: operations.unlink(5, b"x", CONTEXT),
        lambda: operations.rmdir(5, b"x", CONTEXT),
        lambda: operations.rename(5, b"x", 5, b"y", 0, CONTEXT),
        lambda: operations.link(5, 5, b"x", CONTEXT),
        lambda: operations.open(5, os.O_RDONLY, CONTEXT),
        lambda: operations.create(5, b"x", 0o600, os.O_RDWR, CONTEXT),
        lambda: operations.opendir(5, CONTEXT),
        lambda: operations.access(5, os.R_OK, CONTEXT),
        lambda: operations.getxattr(5, b"user.x", CONTEXT),
        lambda: operations.setxattr(5, b"user.x", b"", CONTEXT),
        lambda: operations.listxattr(5, CONTEXT),
        lambda: operations.removexattr(5, b"user.x", CONTEXT),
    ]
    for act in everything:
        caplog.clear()
        with pytest.raises(pyfuse3.FUSEError) as failed:
            await act()
        assert failed.value.errno == expected
        assert bool([record for record in caplog.records if record.exc_info]) == logged


async def test_handles_that_are_not_open_are_a_logged_bug(
    operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    for act in (
        lambda: operations.read(9999, 0, 10),
        lambda: operations.write(9999, 0, b"x"),
        lambda: operations.flush(9999),
        lambda: operations.fsync(9999, False),
        lambda: operations.release(9999),
        lambda: operations.releasedir(9999),
        lambda: operations.fsyncdir(9999, False),
    ):
        caplog.clear()
        with caplog.at_level(logging.ERROR), pytest.raises(pyfuse3.FUSEError) as failed:
            await act()
        assert failed.value.errno == errno.EIO
        assert caplog.records


async def test_look_ups_are_counted_and_forgotten(operations: Operations) -> None:
    tree = operations.tree
    number = (await operations.lookup(ROOT, b"f", CONTEXT)).st_ino
    await operations.lookup(ROOT, b"f", CONTEXT)
    await operations.link(number, ROOT, b"g", CONTEXT)
    assert tree.node(number).lookups == 3
    await operations.forget([(number, 1), (ROOT, 1), (424242, 7)])
    assert tree.node(number).lookups == 2
    await operations.getattr(number, CONTEXT)
    await operations.forget([(number, 2)])
    with pytest.raises(pyfuse3.FUSEError):
        await operations.getattr(number, CONTEXT)
    assert len(tree) == 1
    made: list[Callable[[], Any]] = [
        lambda: operations.mkdir(ROOT, b"n1", 0o755, CONTEXT),
        lambda: operations.mknod(ROOT, b"n2", stat.S_IFIFO | 0o644, 0, CONTEXT),
        lambda: operations.symlink(ROOT, b"n3", b"x", CONTEXT),
    ]
    for make in made:
        entry: pyfuse3.EntryAttributes = await make()
        assert tree.node(entry.st_ino).lookups == 1
        await operations.forget([(entry.st_ino, 1)])
    assert len(tree) == 1


async def test_entries_that_fit_are_counted_and_others_are_not(
    operations: Operations, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyfuse3 says of each entry whether it fitted into the reply; what did not was not told, and comes again."""
    for n in range(20):
        (source / f"{n:02d}").touch()
    taken: list[tuple[bytes, int]] = []
    room = 0

    def reply(token: object, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int) -> bool:
        nonlocal room
        room -= 1
        if room >= 0:
            taken.append((name, cookie))
        return room >= 0

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    tree = operations.tree
    for _ in range(2):
        await operations.lookup(ROOT, b"07", CONTEXT)  # so that the process is taken for one that looks at files
        before = len(tree)
        fh = await operations.opendir(ROOT, CONTEXT)
        taken.clear()
        counts: dict[bytes, int] = {}
        while True:
            room, had = 3, len(taken)
            await operations.readdir(fh, taken[-1][1] if taken else 0, cast("Any", None))
            for name, _ in taken[had:]:
                node = None if name in (b".", b"..") else await operations.lookup(ROOT, name, CONTEXT)
                if node is not None:
                    counts[name] = tree.node(node.st_ino).lookups
                    await operations.forget([(node.st_ino, 1)])
            if len(taken) == had:
                break
            assert len(tree) <= before + len(taken), "an entry that was not taken is remembered"
        await operations.releasedir(fh)
        assert sorted(name for name, _ in taken) == sorted([b".", b"..", *map(os.fsencode, os.listdir(source))])
        assert sum(count > 1 for count in counts.values()) >= len(counts) - 4, "entries with attributes count"


async def test_forgetting_never_fails(
    operations: Operations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nobody to tell: an error of the host, or a bug, must neither end the mount nor keep others in memory."""
    numbers = [(await operations.lookup(ROOT, name, CONTEXT)).st_ino for name in (b"f", b"d")]
    forget = operations.tree.forget

    def broken(node: Node, count: int = 1) -> int | None:
        if node.number == numbers[0]:
            raise OSError(errno.EIO, "a disk that died")
        return forget(node, count)

    monkeypatch.setattr(operations.tree, "forget", broken)
    await operations.forget([(number, 1) for number in numbers])
    with pytest.raises(OSError):
        operations.tree.node(numbers[1])


async def test_the_root_answers_under_its_node_id_and_its_number(operations: Operations) -> None:
    directory = await operations.lookup(ROOT, b"d", CONTEXT)
    above = await operations.lookup(directory.st_ino, b"..", CONTEXT)
    assert above.st_ino == ROOT
    shown = await operations.getattr(ROOT, CONTEXT)
    assert shown.st_ino == operations.tree.root.number != ROOT
    here = await operations.lookup(ROOT, b".", CONTEXT)
    assert here.st_ino == ROOT


async def test_the_cache_mode_decides_how_long_the_kernel_may_keep(operations: Operations) -> None:
    entry = await operations.lookup(ROOT, b"f", CONTEXT)
    expected = {"none": 0, "auto": 1, "always": 86400}[operations._cache.name]
    assert (entry.entry_timeout, entry.attr_timeout) == (expected, expected)


async def test_open_read_write_release(operations: Operations, source: Path) -> None:
    number = (await operations.lookup(ROOT, b"f", CONTEXT)).st_ino
    info = await operations.open(number, os.O_RDWR, CONTEXT)
    assert bytes(await operations.read(info.fh, 2, 5)) == b"23456"
    assert bytes(await operations.read(info.fh, 8, 100)) == b"89"
    assert bytes(await operations.read(info.fh, 100, 100)) == b""
    assert await operations.write(info.fh, 8, b"abcd") == 4
    assert (source / "f").read_bytes() == b"01234567abcd"
    await operations.fsync(info.fh, True)
    await operations.release(info.fh)
    with pytest.raises(OSError):
        os.fstat(info.fh)


async def test_many_slow_and_quick_transfers_at_once_do_not_mix(operations: Operations, stage: Stage) -> None:
    disk = stage.ext4("src/disk")
    for n in range(20):
        (disk / str(n)).write_bytes(bytes([n]) * 200_000)
    directory = (await operations.lookup(ROOT, b"disk", CONTEXT)).st_ino
    opened = []
    for n in range(20):
        number = (await operations.lookup(directory, str(n).encode(), CONTEXT)).st_ino
        opened.append((await operations.open(number, os.O_RDWR, CONTEXT)).fh)
        os.posix_fadvise(opened[-1], 0, 0, os.POSIX_FADV_DONTNEED)
    found: dict[int, bytes] = {}

    async def read(n: int) -> None:
        found[n] = bytes(await operations.read(opened[n], 0, 131072))
        assert await operations.write(opened[n], 0, bytes([n + 100]) * 131072) == 131072

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(read, n)
    assert found == {n: bytes([n]) * 131072 for n in range(20)}
    for n, fh in enumerate(opened):
        await operations.release(fh)
        assert (disk / str(n)).read_bytes() == bytes([n + 100]) * 131072 + bytes([n]) * (200_000 - 131072)


def test_every_field_of_a_stat_is_shown(source: Path) -> None:
    os.mknod(source / "device", stat.S_IFBLK | 0o640, os.makedev(259, 70000))
    os.chown(source / "device", 5, 6)
    os.utime(source / "device", ns=(-1_000_000_001, 1_700_000_000_123_456_789))
    theirs = os.stat(source / "device")
    entry = fill(pyfuse3.EntryAttributes(), Calls().statx(-100, os.fsencode(source / "device")), 4711, 7, 1.5)
    for name in (
        "mode",
        "nlink",
        "uid",
        "gid",
        "rdev",
        "size",
        "blocks",
        "blksize",
        "atime_ns",
        "mtime_ns",
        "ctime_ns",
    ):
        assert getattr(entry, f"st_{name}") == getattr(theirs, f"st_{name}"), name
    assert (entry.st_ino, entry.generation, entry.entry_timeout, entry.attr_timeout) == (4711, 7, 1.5, 1.5)


@pytest.mark.parametrize("number", [2, 2**32, 2**63, 2**64 - 3])
def test_numbers_of_all_64_bits_fit(source: Path, number: int) -> None:
    st = Calls().statx(-100, os.fsencode(source))
    assert fill(pyfuse3.EntryAttributes(), st, number, 2**32 - 1, 0).st_ino == number
