"""What the kernel has forgotten costs nothing, and what it knows costs no descriptor."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.house import PARTS, build_parts
from ..support.process import Child, die_with_parent, run
from ..support.server import Inside
from ..support.stage import Mounted, Stage, drop_caches

NOTHING = ("tests.support.hooks:nothing",)
KNOWN = 200_000
LIMIT = 256


class Watched:
    """A mount with a view of its inside."""

    def __init__(self, mounted: Mounted) -> None:
        self.mounted = mounted
        self.path = mounted.path
        self.inside = Inside(mounted._socket)

    @property
    def nodes(self) -> int:
        """How many nodes the server knows."""
        return int(self.inside.ask("len(tree)"))

    def settle(self) -> None:
        """Returns when the server has dealt with everything that the kernel sent so far, forgets included.

        The kernel queues forgets like requests, but hands a batch of them out only between requests; a few
        requests later all have come.
        """
        for n in range(200):
            os.path.lexists(self.path / f"no such file {n}")

    def forget(self) -> None:
        """Makes the kernel forget all it can."""
        for _ in range(3):  # a directory can go only when what is in it has gone
            drop_caches()
            self.settle()


@pytest.fixture
def watched(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Watched]:
    source = stage.ext4("house")
    build_parts(stage, source)
    mounted = stage.fusemap(source, *getattr(request, "param", ()), hooks=NOTHING)
    view = Watched(mounted)
    yield view
    view.inside.close()


def fill(top: Path) -> None:
    """Some files of each kind in some directories."""
    for d in range(4):
        (top / f"d{d}").mkdir()
        for f in range(20):
            (top / f"d{d}" / f"f{f}").write_text(f"{f}")
        os.symlink("x", top / f"d{d}" / "s")
        os.mkfifo(top / f"d{d}" / "p")
        os.link(top / f"d{d}" / "f0", top / f"d{d}" / "hard")


@pytest.mark.parametrize(
    "watched", [(), ("--cache", "none"), ("--cache", "always")], ids=["auto", "none", "always"], indirect=True
)
def test_nothing_is_left_of_what_the_kernel_has_forgotten(watched: Watched) -> None:
    source = watched.mounted.source
    for part in ("", *PARTS):
        fill(source / part)
    watched.forget()
    nodes, descriptors = watched.nodes, watched.mounted.descriptors()
    assert nodes == 1

    def work() -> None:
        """Every way in which a client can learn of a file, and every kind of call on it."""
        run("find", watched.path, "-printf", "%s")
        run("ls", "-lR", watched.path)
        run("find", watched.path, "-name", "f1")
        for part in ("", *PARTS):
            top = watched.path / part
            for n in range(6):
                (top / f"new{n}").write_text("x" * n)
                (top / f"dir{n}").mkdir()
                os.symlink("x", top / f"sym{n}")
                os.mknod(top / f"nod{n}")
                os.link(top / f"new{n}", top / f"link{n}")
                os.rename(top / f"new{n}", top / f"dir{n}" / "moved")
                os.listdir(top / f"dir{n}")
                (top / "d0" / "f1").read_bytes()
                os.listxattr(top / f"nod{n}")
                for missing in (top / "missing", top / f"dir{n}" / "moved" / "below", top / ("x" * 256)):
                    os.path.lexists(missing)
            with contextlib.suppress(FileExistsError):
                os.mkdir(top / "dir0")
            for n in range(6):
                os.unlink(top / f"dir{n}" / "moved")
                os.rmdir(top / f"dir{n}")
                for name in ("sym", "nod", "link"):
                    os.unlink(top / f"{name}{n}")
            with os.scandir(top) as entries:  # given up in the middle
                next(entries)

    for _ in range(2):
        Child(work).result()
        assert watched.inside.ask("len(operations._files) + len(operations._directories)") == 0
        watched.forget()
        assert watched.nodes == nodes
        assert watched.mounted.descriptors() <= descriptors + 1
    tables = "[(name, len(value)) for name, value in vars(operations).items() if isinstance(value, (dict, set, list))]"
    sizes = dict(watched.inside.ask(tables))
    assert {name: size for name, size in sizes.items() if size > 20} == {}


def test_an_open_file_is_one_descriptor_and_a_closed_one_none(watched: Watched) -> None:
    (watched.mounted.source / "f").write_text("f")
    watched.settle()
    before = watched.mounted.descriptors()
    fds = [os.open(watched.path / "f", os.O_RDONLY) for _ in range(100)]
    assert before + 100 <= watched.mounted.descriptors() <= before + 110
    for fd in fds:
        os.close(fd)
    watched.settle()  # a release is sent when the last user has gone, and answered by nobody
    assert watched.mounted.descriptors() <= before + 10


def test_a_removed_file_is_forgotten_at_once(watched: Watched) -> None:
    watched.forget()
    before = watched.nodes
    for n in range(1000):
        (watched.path / "churn").write_text(str(n))
        os.unlink(watched.path / "churn")
        (watched.path / "one").write_text(str(n))
        os.rename(watched.path / "one", watched.path / "two")
    os.unlink(watched.path / "two")
    watched.settle()
    assert watched.nodes <= before + 20


@pytest.fixture
def crowd(stage: Stage) -> Path:
    """200,000 files on a tmpfs."""
    source = stage.tmpfs("crowd", "size=512m,nr_inodes=300000")
    for d in range(200):
        directory = os.fsencode(source / f"{d:03d}")
        os.mkdir(directory)
        fd = os.open(directory, os.O_PATH)
        for f in range(KNOWN // 200):
            os.mknod(b"%04d" % f, dir_fd=fd)
        os.close(fd)
    return source


def few_descriptors() -> None:
    """A child that may open 256 files."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))


def test_two_hundred_thousand_known_files_with_256_descriptors(stage: Stage, crowd: Path) -> None:
    mounted = stage.fusemap(crowd, hooks=NOTHING, preexec_fn=few_descriptors)
    watched = Watched(mounted)
    try:
        assert run("find", mounted.path, "-size", "+0", "-type", "f").stdout == ""
        assert watched.nodes > KNOWN
        assert mounted.descriptors() < LIMIT
        # All of them can still be found by what is remembered of them
        for d in (0, 77, 199):
            (mounted / f"{d:03d}/0042").write_text("found")
            assert (crowd / f"{d:03d}" / "0042").read_text() == "found"
        assert int(run("find", mounted.path, "-type", "f", "-size", "+0", "-printf", "x").stdout.count("x")) == 3
        watched.forget()
        assert watched.nodes < 1000
    finally:
        watched.inside.close()


def test_more_open_files_than_descriptors_is_an_error_for_the_opener_only(stage: Stage) -> None:
    source = stage.tmpfs("src")
    (source / "f").write_text("f")
    (source / "d").mkdir()
    mounted = stage.fusemap(source, preexec_fn=few_descriptors)
    with contextlib.ExitStack() as opened:
        fds = []
        with pytest.raises(OSError) as failed:
            for _ in range(2 * LIMIT):
                fds.append(os.open(mounted / "f", os.O_RDONLY))
                opened.callback(os.close, fds[-1])
        assert failed.value.errno in (errno.ENFILE, errno.EMFILE)
        assert len(fds) > LIMIT // 2
        assert os.pread(fds[0], 1, 0) == b"f"
    os.stat(mounted / "d")
    assert (mounted / "f").read_text() == "f"
