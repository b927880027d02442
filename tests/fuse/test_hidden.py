"""The hidden directory of a mount: found by name, met by no tool, and not to be changed."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyfuse3
import pytest

from fusemap.fuse.attributes import CACHES
from fusemap.fuse.hidden import NUMBERS, RAW_NUMBERS, Handles
from fusemap.fuse.operations import Operations
from fusemap.host.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, Calls
from fusemap.qid import Mapper, decode
from fusemap.tree import Tree
from fusemap.tree.telling import FILES

from ..support import needs
from ..support.command import fusemap
from ..support.house import tried
from ..support.process import ALICE, attempt, call_as, run
from ..support.stage import Mounted, Stage, drop_caches

NAME = ".fusemap"
HOOK = "tests.support.hooks:nothing"


def build(stage: Stage) -> Path:
    """Two tmpfs on which files have the same inode numbers."""
    source = stage.directory("src")
    for name in ("a", "b"):
        stage.tmpfs(f"src/{name}")
        (source / name / "f").write_text(name)
        (source / name / "d").mkdir()
    return source


@pytest.fixture(scope="module")
def shared() -> Iterator[Stage]:
    """The stage of all tests that leave the mount as it is."""
    needs.fuse()
    stage = Stage()
    try:
        yield stage
    finally:
        stage.close()


@pytest.fixture(scope="module")
def mounted(shared: Stage) -> Mounted:
    return shared.fusemap(build(shared), hooks=(HOOK,))


@pytest.fixture
def live(mounted: Mounted) -> Iterator[Path]:
    """The directory. The server may not log an error."""
    yield mounted.path / NAME
    mounted.check_log()


def test_every_file_is_json(live: Path, mounted: Mounted) -> None:
    run("ls", "-lR", mounted.path)
    assert sorted(os.listdir(live)) == sorted(FILES)
    for name in FILES:
        assert os.path.samefile(live / name, live / name.removesuffix(".json"))
    told = {name: json.loads((live / name).read_bytes()) for name in FILES}
    stats, collisions = told["stats.json"], told["collisions.json"]
    assert (stats["format"], stats["front"], stats["pid"]) == ("fusemap-stats", "fuse", mounted.pid)
    assert stats["operations"]["lookup"]["count"] >= stats["operations"]["lookup"]["timed"]
    assert stats["descriptors"] == pytest.approx(mounted.descriptors(), abs=20)
    assert stats["collisions_averted"] == sum(collisions["averted"].values()) == 3
    assert {row["harm"] for row in collisions["collisions"]} == {"loop", "mixed"}
    assert {file["path"] for row in collisions["collisions"] for file in row["files"]} == {
        "a", "a/f", "a/d", "b", "b/f", "b/d",
    }  # fmt: skip
    points = sorted(device["mounted"] for device in told["devices.json"][1:])
    assert points == [[str(mounted.source / name)] for name in ("a", "b")]
    assert len(told["table.json"]["entries"]) == 3


def test_counts_go_up(live: Path, mounted: Mounted) -> None:
    def stats() -> Any:
        return json.loads((live / "stats.json").read_bytes())

    before = stats()
    assert tried(lambda: os.stat(mounted / "missing")) == "ENOENT"
    (mounted / "a" / "new").write_bytes(bytes(5000))
    assert len((mounted / "a" / "new").read_bytes()) == 5000
    os.unlink(mounted / "a" / "new")
    after = stats()
    for name in ("create", "write", "unlink"):
        row = after["operations"][name]
        assert row["count"] == before["operations"].get(name, {"count": 0})["count"] + 1
        assert row["count"] == row["timed"] == sum(number for _, number in row["latency"])
        assert 0 < row["slowest"] <= row["seconds"]
    assert after["errors"]["2"] > before["errors"].get("2", 0)
    assert after["bytes_written"] - before["bytes_written"] == 5000
    assert after["uptime"] > before["uptime"]
    assert after["time"] > before["time"]


def test_table_json_is_what_the_command_prints(stage: Stage) -> None:
    source = stage.ext4("src")
    stage.tmpfs("src/tmpfs")
    mounted = stage.fusemap(source)
    run("ls", "-l", mounted.path)
    shown = json.loads((mounted / NAME / "table.json").read_bytes())
    assert shown == json.loads(fusemap("table", "show", source, "--json").stdout)
    assert len(shown["entries"]) == 2


def test_no_tool_meets_it(live: Path, mounted: Mounted, stage: Stage) -> None:
    top = mounted.path
    assert sorted(os.listdir(top)) == ["a", "b"]
    for command in (("find", "."), ("tar", "-cvf", "/dev/null", "."), ("du", "-a", "."), ("ls", "-aR", ".")):
        done = attempt(*command, cwd=top)
        assert (done.returncode, NAME in done.stdout, done.stderr) == (0, False, ""), command
    needs.tools("rsync")
    copy = stage.directory("copy")
    run("rsync", "-a", f"{top}/", f"{copy}/")
    assert sorted(os.listdir(copy)) == ["a", "b"]
    run("sh", "-c", "rm -rf ./a/* ./b/*; rm -rf ./*", cwd=copy)
    own = top / "a" / "own"
    own.mkdir()
    (own / "f").touch()
    run("sh", "-c", "rm -rf ./* ./.[!.]*", cwd=own)
    assert os.listdir(own) == []
    own.rmdir()
    assert live.is_dir()


def test_an_open_file_stays_as_it_was(live: Path, mounted: Mounted) -> None:
    fds = [os.open(live / "stats.json", os.O_RDONLY)]
    try:
        start = os.pread(fds[0], 100, 0)
        whole = os.pread(fds[0], 1 << 20, 0)
        os.stat(mounted / "a" / "f")
        fds.append(os.open(live / "stats.json", os.O_RDONLY))
        assert os.pread(fds[0], 100, 0) + os.pread(fds[0], 1 << 20, 100) == whole
        assert whole.startswith(start)
        assert json.loads(os.pread(fds[1], 1 << 20, 0))["time"] > json.loads(whole)["time"]
        assert os.pread(fds[0], 10, len(whole)) == b""
        assert os.lseek(fds[0], 5, os.SEEK_SET) == 5
        assert os.read(fds[0], 7) == whole[5:12]
        os.fsync(fds[0])
    finally:
        for fd in fds:
            os.close(fd)


def test_what_stat_says(live: Path, mounted: Mounted) -> None:
    top = os.stat(live)
    assert (stat.S_IMODE(top.st_mode), top.st_uid, top.st_gid, top.st_nlink) == (0o500, 0, 0, 2)
    assert os.stat(live / "..").st_ino == os.stat(mounted.path).st_ino
    numbers = {entry.name: entry.inode() for entry in os.scandir(live)}
    for name in FILES:
        st = os.lstat(live / name)
        assert (stat.filemode(st.st_mode), st.st_nlink, st.st_size) == ("-r--------", 1, 0)
        assert st.st_ino == numbers[name]
        assert st.st_dev == top.st_dev
    assert len({*numbers.values(), top.st_ino, os.stat(mounted.path).st_ino}) == len(FILES) + 2
    ours, theirs = os.statvfs(live / "stats.json"), os.statvfs(mounted.path)
    assert (ours.f_blocks, ours.f_fsid, ours.f_namemax) == (theirs.f_blocks, theirs.f_fsid, theirs.f_namemax)
    assert os.access(live / "stats.json", os.R_OK)
    assert os.access(live, os.R_OK | os.X_OK)
    for path in (live / "none", live / "stats.json" / "x"):
        assert tried(lambda path=path: os.stat(path)) in ("ENOENT", "ENOTDIR")
    assert tried(lambda: os.readlink(live)) == "EINVAL"


def changes(live: Path, top: Path) -> list[tuple[str, Callable[[], Any]]]:
    """Everything that would change it, each with the error that is right."""
    file, calls = live / "stats.json", Calls()

    def rename(old: str, new: str, flags: int = 0) -> None:
        fd = os.open(top, os.O_RDONLY)
        try:
            calls.rename(fd, old.encode(), fd, new.encode(), flags)
        finally:
            os.close(fd)

    return [
        ("EEXIST", lambda: os.mkdir(live)),
        ("EEXIST", lambda: os.mknod(live)),
        ("EEXIST", lambda: os.symlink("x", live)),
        ("EEXIST", lambda: os.link(top / "a" / "f", live)),
        ("EISDIR", lambda: os.open(live, os.O_CREAT | os.O_WRONLY)),
        ("EISDIR", lambda: os.unlink(live)),
        ("EPERM", lambda: os.rmdir(live)),
        ("EPERM", lambda: os.rename(live, top / "x")),
        ("EPERM", lambda: os.rename(top / "a" / "d", live)),
        ("EISDIR", lambda: os.rename(top / "a" / "f", live)),
        ("EEXIST", lambda: rename("a", NAME, RENAME_NOREPLACE)),
        ("EPERM", lambda: rename("a", NAME, RENAME_EXCHANGE)),
        ("EPERM", lambda: os.rename(top / "a" / "f", live / "f")),
        ("EPERM", lambda: os.rename(file, top / "a" / "stats.json")),
        ("EPERM", lambda: os.rename(file, live / "other")),
        ("EPERM", lambda: os.link(file, top / "a" / "stats.json")),
        ("EPERM", lambda: os.link(top / "a" / "f", live / "f")),
        ("EPERM", lambda: os.mkdir(live / "x")),
        ("EPERM", lambda: os.mknod(live / "x")),
        ("EPERM", lambda: os.symlink("x", live / "x")),
        ("EPERM", lambda: os.open(live / "x", os.O_CREAT | os.O_WRONLY)),
        ("EPERM", lambda: os.unlink(file)),
        ("EPERM", lambda: os.chmod(file, 0o777)),
        ("EPERM", lambda: os.chmod(live, 0o777)),
        ("EPERM", lambda: os.chown(file, 1, 1)),
        ("EPERM", lambda: os.utime(live)),
        ("EPERM", lambda: os.truncate(file, 0)),
        ("EACCES", lambda: os.open(file, os.O_WRONLY)),
        ("EACCES", lambda: os.open(file, os.O_RDWR)),
        ("EACCES", lambda: os.open(file, os.O_RDONLY | os.O_TRUNC)),
        ("EPERM", lambda: os.setxattr(file, "user.x", b"1")),
        ("EPERM", lambda: os.setxattr(live, "user.x", b"1")),
        ("EPERM", lambda: os.removexattr(file, "user.x")),
        ("ENODATA", lambda: os.getxattr(file, "user.fusemap.qid")),
        ("ENODATA", lambda: os.getxattr(live, "user.fusemap.collides")),
    ]


def test_nothing_of_it_can_be_changed(live: Path, mounted: Mounted) -> None:
    wrong = {}
    for number, (expected, act) in enumerate(changes(live, mounted.path)):
        found = tried(act)
        if found != expected:
            wrong[number] = (expected, found)
    assert wrong == {}
    assert os.listxattr(live / "stats.json") == os.listxattr(live) == []
    assert sorted(os.listdir(mounted.source)) == ["a", "b"]
    assert sorted(os.listdir(mounted.source / "a")) == ["d", "f"]
    assert sorted(os.listdir(live)) == sorted(FILES)


async def test_requests_that_the_kernel_would_not_send(stage: Stage) -> None:
    """It asks for a name before it acts on it, so only a race brings these."""
    needs.root()
    operations = Operations(Tree(build(stage), Mapper()), CACHES["auto"])
    root, context, name = pyfuse3.ROOT_INODE, pyfuse3.RequestContext(), NAME.encode()
    acts: list[tuple[int, Callable[[], Any]]] = [
        (errno.EEXIST, lambda: operations.mkdir(root, name, 0o755, context)),
        (errno.EEXIST, lambda: operations.mknod(root, name, stat.S_IFREG, 0, context)),
        (errno.EEXIST, lambda: operations.symlink(root, name, b"x", context)),
        (errno.EEXIST, lambda: operations.create(root, name, 0o600, os.O_RDWR, context)),
        (errno.EEXIST, lambda: operations.link(root, root, name, context)),
        (errno.EPERM, lambda: operations.unlink(root, name, context)),
        (errno.EPERM, lambda: operations.rmdir(root, name, context)),
        (errno.EPERM, lambda: operations.rename(root, b"a", root, name, 0, context)),
        (errno.EPERM, lambda: operations.write(1 << 41, 0, b"x")),
        (errno.EACCES, lambda: operations.open(NUMBERS[1], os.O_RDWR, context)),
        (errno.EISDIR, lambda: operations.open(NUMBERS[0], os.O_RDONLY, context)),
        (errno.ENOTDIR, lambda: operations.opendir(NUMBERS[1], context)),
        (errno.ENOTDIR, lambda: operations.lookup(NUMBERS[1], b"x", context)),
    ]
    try:
        for expected, act in acts:
            with pytest.raises(pyfuse3.FUSEError) as failed:
                await act()
            assert failed.value.errno in (expected, errno.EBADF)
        assert (await operations.lookup(NUMBERS[2], b".", context)).st_ino == NUMBERS[2]
        await operations.forget([(NUMBERS[2], 1), (NUMBERS[0], 5)])
        fds = [(await operations.open(NUMBERS[1], os.O_RDONLY, context)).fh for _ in range(64)]
        with pytest.raises(pyfuse3.FUSEError) as failed:
            await operations.open(NUMBERS[1], os.O_RDONLY, context)
        assert failed.value.errno == errno.ENFILE
        for fd in fds:
            await operations.flush(fd)
            await operations.release(fd)
        assert len(operations.tree) == 1
        assert await operations.access(NUMBERS[1], os.R_OK, _as(ALICE.uid)) is False
        assert await operations.access(NUMBERS[1], os.R_OK, _as(0)) is True
        assert await operations.access(NUMBERS[1], os.W_OK, _as(0)) is False
        assert await operations.access(NUMBERS[0], os.X_OK, _as(0)) is True
    finally:
        operations.close()
    with pytest.raises(KeyError):
        Handles()[5]


def _as(uid: int) -> Any:
    class Context:
        pass

    context: Any = Context()
    context.uid = uid
    return context


def test_only_root_and_who_mounted_may_look(live: Path) -> None:
    for act in (lambda: os.listdir(live), lambda: os.stat(live / "stats.json"), lambda: open(live / "stats.json")):
        assert call_as(ALICE, lambda act=act: tried(act)) == "EACCES"
    assert call_as(ALICE, lambda: stat.S_ISDIR(os.stat(live).st_mode))


def test_a_users_own_mount(stage: Stage) -> None:
    source = stage.directory("src")
    os.chown(source, ALICE.uid, ALICE.gid)
    (source / "f").touch()
    mounted = stage.fusemap_as(ALICE, source)

    def look() -> Any:
        st = os.stat(mounted / NAME)
        return json.loads((mounted / NAME / "stats.json").read_bytes()), st.st_uid, st.st_gid

    told, *owner = call_as(ALICE, look)
    assert told["pid"] == mounted.pid
    assert owner == [ALICE.uid, ALICE.gid]


def test_file_handles_of_it(live: Path, mounted: Mounted) -> None:
    """An NFS server would hold such; the kernel asks for what it has forgotten by number."""
    calls, top = Calls(), os.open(mounted.path, os.O_RDONLY)
    try:
        fd = os.open(live / "devices.json", os.O_RDONLY)
        handle, number = calls.handle(fd, b""), os.fstat(fd).st_ino
        os.close(fd)
        inside = mounted.inside()
        before = inside.ask("len(tree), tree.root.lookups")
        drop_caches()
        again = calls.open_by_handle(top, handle, os.O_RDONLY)
        try:
            assert os.fstat(again).st_ino == number
            assert json.loads(os.read(again, 1 << 20))
        finally:
            os.close(again)
        drop_caches()
        for _ in range(200):  # whatever the kernel forgets has come with one of these
            os.path.lexists(mounted / "missing")
        nodes, lookups = inside.ask("len(tree), tree.root.lookups")
        assert (nodes <= before[0], lookups) == (True, before[1])
        assert inside.ask("len(operations.hidden._contents)") == 0
        inside.close()
    finally:
        os.close(top)


# What SRC has of that name --------------------------------------------------------------------------------------------


def test_a_real_entry_is_shown_and_can_be_used(stage: Stage) -> None:
    source = build(stage)
    (source / NAME).mkdir()
    (source / NAME / "mine").write_text("mine")
    mounted = stage.fusemap(source)
    assert sorted(os.listdir(mounted.path)) == [NAME, "a", "b"]
    assert os.listdir(mounted / NAME) == ["mine"]
    assert (mounted / NAME / "mine").read_text() == "mine"
    assert mounted.log().count("there is no live directory") == 1
    (mounted / NAME / "more").write_text("more")
    run("mv", mounted / NAME, mounted / "moved")
    assert sorted(os.listdir(mounted / NAME)) == sorted(FILES)
    assert tried(lambda: os.rename(mounted / "moved", mounted / NAME)) == "EPERM"
    (source / NAME).write_text("made on the host")
    assert (mounted / NAME).read_text() == "made on the host"
    os.unlink(mounted / NAME)
    assert (mounted / NAME / "stats.json").is_file()
    assert (source / "moved" / "more").read_text() == "more"


def test_only_the_root_has_it(live: Path, mounted: Mounted) -> None:
    for name in ("a", "b/d"):
        assert not os.path.lexists(mounted / name / NAME)
    (mounted / "a" / NAME).mkdir()
    (mounted / "a" / NAME).rmdir()


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(9))
def test_no_map_ever_gives_its_numbers(k: int) -> None:
    assert len(NUMBERS) > len(FILES)
    for number in NUMBERS:
        with pytest.raises(ValueError):
            decode(number, k)  # nor does mode qemu, whose paths end in the same suffixes
        for mode in ("suffix", "qemu", "prefix"):
            mapper = Mapper(mode, k)
            for device in range(300):
                mapper.path(device, 1 << 63 | device)
            with pytest.raises(LookupError):
                mapper.locate(number)


async def test_it_goes_where_a_full_map_could_have_its_numbers(stage: Stage) -> None:
    from fusemap.qid import Allocator

    needs.root()
    tree = Tree(build(stage), Mapper("prefix", source=Allocator(65536, NUMBERS[0] - 1)))
    operations = Operations(tree, CACHES["auto"])
    context, name = pyfuse3.RequestContext(), NAME.encode()
    try:
        assert (await operations.lookup(pyfuse3.ROOT_INODE, name, context)).st_ino == NUMBERS[0]
        assert (await operations.lookup(pyfuse3.ROOT_INODE, b"a", context)).st_ino == NUMBERS[0]
        with pytest.raises(pyfuse3.FUSEError) as failed:
            await operations.lookup(pyfuse3.ROOT_INODE, name, context)
        assert failed.value.errno == errno.ENOENT
        assert stat.S_ISDIR((await operations.getattr(NUMBERS[0], context)).st_mode)
        assert sorted(entry.name for entry in os.scandir(tree.proc(tree.node(NUMBERS[0])))) == [b"d", b"f"]
    finally:
        operations.close()


@pytest.mark.parametrize("mode", ["raw", "qemu", "prefix"])
def test_with_other_maps(stage: Stage, mode: str) -> None:
    mounted = stage.fusemap(build(stage), "--map", mode)
    live = mounted / NAME
    theirs = {os.lstat(path).st_ino for path in (mounted.path, *mounted.path.rglob("*"))}
    ours = {entry.name: entry.inode() for entry in os.scandir(live)}
    assert sorted(ours) == sorted(FILES)
    for name, number in ours.items():
        assert os.stat(live / name).st_ino == number
        fd = os.open(live / name, os.O_RDONLY)
        assert os.fstat(fd).st_ino == number
        os.close(fd)
    own = {*ours.values(), os.stat(live).st_ino}
    assert len(own) == len(FILES) + 1
    assert not own & theirs
    assert own <= set(RAW_NUMBERS if mode == "raw" else NUMBERS)
    assert json.loads((live / "stats.json").read_bytes())["map"] == mode


# Bugs and many files --------------------------------------------------------------------------------------------------


def break_telling(operations: Any) -> None:
    """A hook: a bug in what makes the content of a file."""

    def text(*_: object) -> bytes:
        raise ZeroDivisionError("a bug on purpose")

    operations.telling.text = text


def know_many(operations: Any) -> None:
    """A hook: everything is many."""
    from fusemap.tree import survey, telling

    survey.SMALL = 0  # type: ignore[misc]
    telling._FEW = -1  # type: ignore[misc]


def test_a_bug_in_it_is_an_error_and_no_more(stage: Stage) -> None:
    mounted = stage.fusemap(build(stage), hooks=("tests.fuse.test_hidden:break_telling",))
    mounted.expected.append("a bug on purpose")
    assert tried(lambda: (mounted / NAME / "stats.json").read_bytes()) == "EIO"
    assert "ZeroDivisionError" in mounted.log()
    assert (mounted / "a" / "f").read_text() == "a"
    assert sorted(os.listdir(mounted / NAME)) == sorted(FILES)


def test_what_takes_long_is_done_beside_the_requests(stage: Stage) -> None:
    mounted = stage.fusemap(build(stage), hooks=("tests.fuse.test_hidden:know_many",))
    run("ls", "-lR", mounted.path)
    for _ in range(2):
        told = {name: json.loads((mounted / NAME / name).read_bytes()) for name in FILES}
        assert told["stats.json"]["collisions_averted"] == 3
        assert len(told["collisions.json"]["collisions"]) == 3
        assert [device["known_inodes"] for device in told["devices.json"]] == [1, 3, 3]
        assert len(told["table.json"]["entries"]) == 3
