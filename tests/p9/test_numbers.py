"""One tree by three ways at once: a FUSE mount, a server in another process, a session in this one.

Each is first to meet some of the devices. What it tells of a file - in walk, readdir and getattr, in st_ino and d_ino -
is the same number as that of the others, for every file of several thousand.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from fusemap.cli import exported as options_of
from fusemap.p9 import messages as m
from fusemap.p9.export import Export
from fusemap.p9.model import Model
from fusemap.qid import QID, version, version_qemu

from ..conftest import TEST_SECONDS
from ..support import needs
from ..support.house import PARTS, build_parts
from ..support.process import run
from ..support.stage import Mounted, Stage, watchdog
from . import inside as insides
from .client import Client, entries
from .inside import Inside
from .served import Served

NESTED: Final = ("nested", "nested/sub", "nested/sub/below")  # subvolumes that nothing is mounted on
FILES: Final = 200  # in each file system, and as many again two directories deeper
Numbers = dict[str, set[int]]
"""By path below the top: the numbers that one way tells, which should be one."""


def populate(top: Path, depth: int = 2) -> None:
    """Files, symbolic links, a hard link, and the same one directory deeper."""
    for n in range(FILES >> (2 - depth)):
        (top / f"file{n}").touch()
    os.symlink("file0", top / "symlink")
    os.link(top / "file1", top / "hard")
    if depth:
        below = top / f"deeper{depth}"
        below.mkdir()
        populate(below, depth - 1)


def by_mount(top: Path, part: str) -> Numbers:
    """What a mount tells: d_ino and st_ino. Of a mounted directory, d_ino is that of what it covers to a kernel."""
    found: Numbers = {part: {os.lstat(top / part).st_ino}}
    for path, _, _ in os.walk(top / part):
        with os.scandir(path) as entries:
            for entry in entries:
                told = {entry.inode(), entry.stat(follow_symlinks=False).st_ino}
                found[str(Path(entry.path).relative_to(top))] = told
    return found


def by_server(client: Client, part: str) -> Numbers:
    """What a server tells in walk, readdir and getattr."""
    found: Numbers = {}
    dots: list[tuple[str, int]] = []

    def add(path: str, number: int) -> None:
        found.setdefault(path, set()).add(number)

    def visit(path: str, above: str) -> None:
        fid = client.walk(client.root, *path.split("/")) if path else client.walk(client.root)
        add(path, client.getattr(fid).qid.path)
        client.call(m.Tlopen(fid, 0o200000))
        for entry in client.list(fid):
            name = os.fsdecode(entry.name)
            if name in (".", ".."):
                dots.append((path if name == "." else above, entry.qid.path))
                continue
            child = f"{path}/{name}".lstrip("/")
            below = client.new_fid()
            (walked,) = client.call(m.Twalk(fid, below, (entry.name,))).wqid
            told = client.getattr(below).qid
            client.clunk(below)
            assert walked == told == entry.qid, child
            add(child, told.path)
            if told.type & 0x80:
                visit(child, path)
        client.clunk(fid)

    visit(part, os.path.dirname(part))
    for path, number in dots:
        if path in found:
            add(path, number)
    return found


class Here(Inside):
    """A session in this process, with as much of a `Client` as `by_server` asks for."""

    def call(self, message: Any) -> Any:
        return self.ask(message)

    def new_fid(self) -> int:
        return self.new()

    def getattr(self, fid: Any = "") -> Any:
        return self.ask(m.Tgetattr(fid, 0x7FF))

    def walk(self, fid: Any = "", *names: Any) -> int:
        return self.walk_names(tuple(map(os.fsencode, names)), fid)

    def list(self, fid: int) -> Any:
        found: list[Any] = []
        while part := list(entries(bytes(self.ask(m.Treaddir(fid, found[-1].offset if found else 0, 8192)).data))):
            found += part
        return found


@contextlib.contextmanager
def here(source: Path, *words: str) -> Iterator[Here]:
    """A session of the tree as `fusemap serve` would open it."""
    parser = argparse.ArgumentParser()
    options_of.add_options(parser)
    options = parser.parse_args(words)
    options.source, options.log = str(source), None
    options_of.settle(options)
    with contextlib.closing(options_of.open_table(options)) as table:
        tree, shown = options_of.open_tree(options, table)
        with contextlib.closing(tree), Here(Export(tree, Model(tree), shown=shown)) as session:
            yield session


class Ways:
    """The three ways to one source."""

    def __init__(self, stage: Stage, source: Path, session: Here, *options: str) -> None:
        self.source = source
        self.mounted: Mounted = stage.fusemap(source, *options)
        self.served = Served(source, stage.path, *options)
        self.client = Client(self.served.address)
        self.client.attach()
        self.session = session

    def close(self) -> None:
        self.client.close()
        self.served.close()

    def tell(self, way: int, part: str) -> Numbers:
        if way == 0:
            return by_mount(self.mounted.path, part)
        return by_server(self.client if way == 1 else self.session, part)  # type: ignore[arg-type]

    def compare(self, part: str) -> int:
        """Proves that all three tell one number of each file; of how many files."""
        told = [self.tell(way, part) for way in range(3)]
        assert set(told[0]) == set(told[1]) == set(told[2])
        for path in told[0]:
            numbers = [numbers[path] for numbers in told]
            assert numbers[0] == numbers[1] == numbers[2], (path, numbers)
            assert len(numbers[0]) == 1, (path, numbers)
        return len(told[0])


@pytest.fixture(scope="module")
def source() -> Iterator[Path]:
    """The root, an ext4, with a part of each file system below it."""
    needs.fuse()
    stage = Stage()
    try:
        with watchdog.limit(TEST_SECONDS):
            source = stage.ext4("source")
            build_parts(stage, source)
            stage.disk("btrfs", source / "nested")
            for path in ("sub", "sub/below"):
                run("btrfs", "subvolume", "create", source / "nested" / path)
            for part in (*PARTS, *NESTED):
                populate(source / part)
        yield source
    finally:
        with watchdog.limit(TEST_SECONDS):
            stage.close()


@pytest.mark.parametrize("options", [(), ("--map", "raw")], ids=["suffix", "raw"])
def test_one_number_for_every_file_whoever_met_its_device_first(
    stage: Stage, source: Path, options: tuple[str, ...]
) -> None:
    with here(source, *options) as session:
        ways = Ways(stage, source, session, *options)
        try:
            for number, part in enumerate((*PARTS, *reversed(NESTED))):
                ways.tell(number % 3, part)
            late = [stage.tmpfs(source / f"late{n}") for n in range(3)] + [stage.ext4(source / "late-disk")]
            for number, path in enumerate(late):
                (path / "file").touch()
                ways.tell(number % 3, path.name)
            assert ways.compare("") > 2000
        finally:
            ways.close()


@pytest.mark.parametrize("map_", ["raw", "qemu", "suffix"])
@pytest.mark.parametrize("model", list(insides.MODELS))
def test_a_session_tells_one_number_whatever_the_map(source: Path, map_: str, model: str) -> None:
    with here(source, "--map", map_, "--state", "none") as first:
        export = first.session.export
        shown = export.numbering and export.numbering.mapper
        other = Export(export.tree, insides.MODELS[model](export.tree), shown=shown)
        with Here(other) as session:
            numbers = by_server(session, "")  # type: ignore[arg-type]
            assert len(numbers) > 2000
            wrong = {path: told for path, told in numbers.items() if len(told) != 1}
            assert not wrong
            if map_ == "raw":
                for path in ("", *PARTS, *NESTED, "xfs/file3", "subvol-a/deeper2/file5", "tmpfs/symlink"):
                    assert numbers[path] == {os.lstat(source / path).st_ino}
            same = len(numbers) - len({min(told) for told in numbers.values()})
            links = sum(path.endswith("/hard") for path in numbers)
            assert same > links if map_ == "raw" else same == links
            told = session.getattr(session.walk(session.root, "xfs", "file3"))
            st = os.lstat(source / "xfs" / "file3")
            expected = version_qemu(int(st.st_mtime), st.st_size)
            if map_ != "qemu":
                expected = version(st.st_mtime_ns, st.st_ctime_ns, st.st_size)
            assert told.qid == QID(0, expected, told.qid.path)
