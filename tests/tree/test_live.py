"""Nodes: how they are found, counted, forgotten, and proved to be what they were."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusemap.host.calls import Calls, Stat
from fusemap.qid import Mapper
from fusemap.tree import Tree, attributes, changes
from fusemap.tree.reach import BURST_DESCRIPTORS, Reach

from ..support import needs
from ..support.process import ALICE, User, call_as
from ..support.stage import Stage
from ..support.trees import ME, descriptors, opened, replace, walk

CLOCK_REALTIME_COARSE = 5  # linux/time.h


@pytest.fixture(params=["handles", "places"])
def found(request: pytest.FixtureRequest, stage: Stage) -> Iterator[tuple[Path, User | None]]:
    """An ext4, and who is to export it: root, who finds files by handle, or a user, who finds them by their place."""
    source = stage.ext4("src", 16, "-N", "200")
    (source / "d" / "e").mkdir(parents=True)
    (source / "f").write_text("f")
    (source / "d" / "e" / "g").write_text("g")
    for path in (source, *source.rglob("*")):
        if path.name != "lost+found":
            os.chown(path, ALICE.uid, ALICE.gid)
    yield source, None if request.param == "handles" else ALICE


def fails(number: int, act: Callable[[], object]) -> None:
    """The call fails with this errno."""
    with pytest.raises(OSError) as failed:
        act()
    assert failed.value.errno == number


def test_a_look_up_counts_and_forgetting_takes_back(found: tuple[Path, User | None]) -> None:
    source, user = found

    def work() -> None:
        with opened(source) as tree:
            assert len(tree) == 1
            first, st = tree.lookup(tree.root, b"f")
            second, _ = tree.lookup(tree.root, b"f")
            assert first is second is tree.node(first.number)
            assert (first.lookups, len(tree)) == (2, 2)
            assert (first.inode, st.ino) == (os.stat(source / "f").st_ino,) * 2
            tree.forget(first)
            assert tree.node(first.number) is first
            tree.forget(first)
            assert len(tree) == 1
            fails(errno.ESTALE, lambda: tree.node(first.number))
            tree.forget(tree.root, 1000)
            assert tree.node(tree.root.number) is tree.root

    call_as(user, work)


def test_names_that_are_not_there(found: tuple[Path, User | None]) -> None:
    source, user = found

    def work() -> None:
        with opened(source) as tree:
            fails(errno.ENOENT, lambda: tree.lookup(tree.root, b"missing"))
            fails(errno.ENOTDIR, lambda: tree.lookup(walk(tree, "f"), b"x"))
            fails(errno.ENAMETOOLONG, lambda: tree.lookup(tree.root, b"x" * 256))
            assert len(tree) == 2

    call_as(user, work)


def test_above_the_root_is_the_root(found: tuple[Path, User | None]) -> None:
    source, user = found

    def work() -> None:
        with opened(source / "d") as tree:
            assert tree.lookup(tree.root, b"..")[0] is tree.root
            below = walk(tree, "e")
            assert tree.lookup(below, b"..")[0] is tree.root

    call_as(user, work)


def test_a_directory_moved_out_of_the_tree_leads_nowhere(found: tuple[Path, User | None]) -> None:
    """Its ".." would be the host's own tree."""
    source, user = found

    def work() -> None:
        with opened(source / "d") as tree:
            node = walk(tree, "e")
            os.rename(source / "d" / "e", source / "outside")
            fails(errno.ESTALE, lambda: tree.lookup(node, b".."))

    call_as(user, work)


def test_a_renamed_file_is_found_by_its_handle_or_not_at_all(found: tuple[Path, User | None]) -> None:
    source, user = found

    def work() -> None:
        with opened(source) as tree:
            node = walk(tree, "d/e/g")
            os.rename(source / "d", source / "moved")
            (source / "d" / "e").mkdir(parents=True)
            (source / "d" / "e" / "g").write_text("another")
            tree.rest()
            if user is None:
                assert tree.stat(node).size == 1
                assert tree.stat(walk(tree, "moved/e/g")).ino == node.inode
            else:
                fails(errno.ESTALE, lambda: tree.stat(node))
                again = walk(tree, "moved/e/g")
                assert again is node
                assert tree.stat(node).size == 1
            assert walk(tree, "d/e/g") is not node

    call_as(user, work)


def test_renames_through_the_tree_are_followed(found: tuple[Path, User | None]) -> None:
    source, user = found

    def work() -> None:
        with opened(source) as tree:
            deep, top = walk(tree, "d/e/g"), walk(tree, "f")
            root = tree.root
            changes.rename(tree, root, b"d", root, b"d2", 0, ME)
            tree.rest()
            assert tree.stat(deep).size == 1
            changes.rename(tree, root, b"d2", root, b"f", 2, ME)  # RENAME_EXCHANGE
            tree.rest()
            assert tree.stat(top).ino == os.stat(source / "d2").st_ino
            assert tree.stat(deep).ino == os.stat(source / "f" / "e" / "g").st_ino

    call_as(user, work)


def test_a_reused_inode_number_is_another_generation(stage: Stage) -> None:
    source = stage.ext4("src", 16, "-N", "64")
    with opened(source) as tree:
        (source / "old").write_text("old")
        old, _ = tree.lookup(tree.root, b"old")
        number, generation, inode = old.number, old.generation, old.inode
        tree.rest()
        os.unlink(source / "old")
        for n in range(60):
            (source / f"new{n}").write_text("new")
            if os.stat(source / f"new{n}").st_ino == inode:
                break
        else:
            pytest.fail("the inode number did not come up again")
        fails(errno.ESTALE, lambda: tree.stat(old))
        fails(errno.ESTALE, lambda: tree.open(old, os.O_RDONLY))
        new, _ = tree.lookup(tree.root, f"new{n}".encode())
        assert (new.number, new.inode) == (number, inode)
        assert new.generation != generation
        assert tree.reused == 1


@pytest.fixture(params=["fid", "birth"])
def overlay(request: pytest.FixtureRequest, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An overlay, a file system without handles, whose upper layer gives inode numbers again at once.

    With "birth" it is one of a kernel that gives no handles for comparing either. Its lower layer has a file "low".
    """
    disk = stage.ext4("disk", 16, "-N", "64")
    for name in ("upper", "work", "lower"):
        (disk / name).mkdir()
    (disk / "lower" / "low").write_text("low")
    (disk / "upper" / "old").write_text("old")
    options = f"xino=on,lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
    source = stage.mount("overlay", "src", "-t", "overlay", "-o", options)
    if request.param == "birth":
        monkeypatch.setattr(Calls, "fid", lambda self, dirfd, name: b"")
    elif not Calls().fid(-100, os.fsencode(source / "low")):
        needs.missing("this kernel gives no handles for comparing (AT_HANDLE_FID) on an overlay")
    return source


def tick() -> None:
    """Waits until the clock by which files are born has moved on."""
    now = time.clock_gettime(CLOCK_REALTIME_COARSE)
    while time.clock_gettime(CLOCK_REALTIME_COARSE) == now:
        time.sleep(0.001)


@pytest.mark.parametrize("again", ["file", "fifo"])
def test_a_reused_inode_number_where_there_are_no_handles(overlay: Path, again: str) -> None:
    """At the very place of the old file: what was known must not become the new one unnoticed."""
    make: Callable[[Path], object] = os.mkfifo if again == "fifo" else (lambda path: path.write_text("new"))
    with opened(overlay) as tree:
        tick()
        (overlay / "f").write_text("old")
        old, _ = tree.lookup(tree.root, b"f")
        number, generation = old.number, old.generation
        assert old.handle is None or not old.mount.handles
        tree.rest()
        tick()
        replace(overlay / "f", make)
        fails(errno.ESTALE, lambda: tree.stat(old))
        fails(errno.ESTALE, lambda: tree.open(old, os.O_RDONLY))
        new, _ = tree.lookup(tree.root, b"f")
        assert (new.number, new.generation != generation) == (number, True)
        assert tree.reused == 1


def test_a_reused_inode_number_of_a_file_that_is_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux's 9P client shows it: a file has nothing but its inode number, which no descriptor keeps from others."""
    source = stage.ext4("src")
    statx, same = Calls.statx, dict[int, int]()

    def as_shown(self: Calls, dirfd: int, name: bytes) -> Stat:
        st = statx(self, dirfd, name)
        return st._replace(ino=same.get(st.ino, st.ino))

    monkeypatch.setattr(Calls, "statx", as_shown)
    monkeypatch.setattr(Reach, "handle_of", lambda *_: None)
    with opened(source) as tree:
        fd, old, st = changes.create(tree, tree.root, b"old", os.O_RDWR, 0o644, ME)
        os.close(fd)
        changes.unlink(tree, tree.root, b"old")  # and the kernel, which still knows it, forgets it some time later
        assert tree.keeps(old)
        number, generation = old.number, old.generation
        (source / "new").write_text("new")
        same[(source / "new").stat().st_ino] = st.ino
        new, _ = tree.lookup(tree.root, b"new")
        assert (new.number, new.generation != generation) == (number, True)
        assert not tree.keeps(new)
        with open(tree.open(new, os.O_RDONLY), "rb") as file:
            assert file.read() == b"new"


@pytest.mark.parametrize("by", ["open", "chmod", "chown", "utimens", "xattr", "link", "rename", "the host"])
def test_a_file_that_is_copied_up_stays_what_it_was(overlay: Path, by: str) -> None:
    """An overlay's file moves to the upper layer when it is changed; with that its time of birth is another one."""
    with opened(overlay) as tree:
        node, before = tree.lookup(tree.root, b"low")
        generation, fd = node.generation, tree.open(node, os.O_RDONLY)
        name = b"low"
        if by == "open":
            with open(tree.open(node, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as file:
                file.write(b"er")
        elif by == "chmod":
            changes.chmod(tree, node, 0o600)
        elif by == "chown":
            changes.chown(tree, node, ALICE.uid, ALICE.gid)
        elif by == "utimens":
            changes.utimens(tree, node, 1, 1)
        elif by == "xattr":
            attributes.put(tree, node, b"user.a", b"a", ME)
        elif by == "link":
            assert changes.link(tree, node, tree.root, b"linked")[0] is node
        elif by == "rename":
            name = b"renamed"
            changes.rename(tree, tree.root, b"low", tree.root, name, 0, ME)
        else:
            with open(overlay / "low", "a") as written:
                written.write("er")
        text = b"lower" if by in ("open", "the host") else b"low"
        for _ in range(2):
            tree.rest()
            assert tree.stat(node).ino == before.ino
            assert (overlay / os.fsdecode(name)).stat().st_ino == before.ino
            again = tree.open(node, os.O_RDONLY)
            assert os.read(again, 10) == text
            os.close(again)
            assert tree.lookup(tree.root, name)[0] is node
        assert (node.generation, tree.reused) == (generation, 0)
        os.close(fd)
        # In the upper layer it is a file like any other, whose number the host may give again.
        tree.rest()
        if by not in ("link", "rename"):
            tick()
            (overlay / os.fsdecode(name)).unlink()
            (overlay / os.fsdecode(name)).write_text("another")
            again_node, _ = tree.lookup(tree.root, name)
            assert again_node is not node or node.generation != generation


def test_descriptors_are_few_and_none_at_rest(stage: Stage) -> None:
    source = stage.tmpfs("src")
    for n in range(1000):
        (source / str(n)).touch()
    with opened(source) as tree:
        before = descriptors()
        nodes = [tree.lookup(tree.root, str(n).encode())[0] for n in range(1000)]
        assert len(descriptors()) <= len(before) + BURST_DESCRIPTORS + 2
        tree.rest()
        assert descriptors() == before
        assert [tree.stat(node).ino for node in nodes] == [node.inode for node in nodes]
        assert len(tree) == 1001


def test_a_removed_file_stays_for_whoever_knows_it(found: tuple[Path, User | None]) -> None:
    source, user = found

    def work() -> None:
        with opened(source) as tree:
            before = descriptors()
            node = walk(tree, "f")
            changes.unlink(tree, tree.root, b"f")
            tree.rest()
            assert tree.stat(node).nlink == 0
            fd = tree.open(node, os.O_RDONLY)
            assert os.read(fd, 10) == b"f"
            os.close(fd)
            tree.forget(node)
            tree.rest()
            assert descriptors() == before

    call_as(user, work)


def test_nothing_but_files_and_directories_is_opened(stage: Stage) -> None:
    source = stage.tmpfs("src", "size=1m,dev")
    os.mkfifo(source / "fifo")
    os.mknod(source / "tty", stat.S_IFCHR | 0o600, os.makedev(5, 0))
    os.symlink("/etc/passwd", source / "link")
    with opened(source) as tree:
        for name, number in ((b"fifo", errno.ENXIO), (b"tty", errno.ENXIO), (b"link", errno.ELOOP)):
            node, _ = tree.lookup(tree.root, name)
            fails(number, lambda node=node: tree.open(node, os.O_RDONLY))  # type: ignore[misc]
        assert changes.readlink(tree, node) == b"/etc/passwd"
        fails(errno.EOPNOTSUPP, lambda: changes.chmod(tree, node, 0o600))


def test_a_million_levels_are_no_recursion(stage: Stage) -> None:
    """Well, three thousand: more than the interpreter's stack has, on a file system without handles."""
    source = stage.overlay("src")
    fd = os.open(source, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with opened(source) as tree:
        node = tree.root
        for _ in range(3000):
            node, _ = tree.lookup(node, b"d")
        tree.rest()
        assert stat.S_ISDIR(tree.stat(node).mode)
        assert tree.lookup(node, b"..")[0].inode != node.inode


def test_closing_leaves_no_descriptor_even_when_it_cannot_start(stage: Stage) -> None:
    before = descriptors()
    for wrong in (stage.path / "missing", Path("/dev/null")):
        with pytest.raises(OSError):
            Tree(wrong, Mapper())
    assert descriptors() == before
