"""What a tree tells of itself: counts, devices, collisions, and the attributes that say where a file is."""

from __future__ import annotations

import doctest
import errno
import importlib
import json
import logging
import os
import stat
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemap.qid import QID, Allocator, Mapper, version, version_qemu
from fusemap.table import open_table
from fusemap.tree import Node, Tree, survey
from fusemap.tree.places import path_below, path_of
from fusemap.tree.shown import LOGGED, Owner, Shown
from fusemap.tree.statistics import Statistics
from fusemap.tree.survey import HARMS, LISTED, Survey
from fusemap.tree.telling import FILES, Telling
from fusemap.tree.virtual import virtual

from ..support.stage import Stage, drop_caches
from ..support.trees import opened, walk


@pytest.fixture
def source(stage: Stage) -> Path:
    """Two tmpfs, "a" and "b", that give the same inode numbers in turn."""
    path = stage.directory("src")
    for name in ("a", "b"):
        stage.tmpfs(f"src/{name}")
    return path


def told(tree: Tree, name: str, shown: Shown | None = None, names: bool = True) -> Any:
    telling = Telling(tree, "fuse", Statistics(), shown)
    return json.loads(telling.text(name, telling.gather(name), names))


def make(path: Path, *kinds: str) -> None:
    """Entries "0", "1", ... of a directory: "f" is a file, "d" a directory."""
    for n, kind in enumerate(kinds):
        (path / str(n)).mkdir() if kind == "d" else (path / str(n)).write_bytes(b"x")


@pytest.mark.parametrize("module", ["statistics", "virtual"])
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"fusemap.tree.{module}"))
    assert found.attempted > 0
    assert not found.failed


# Collisions -----------------------------------------------------------------------------------------------------------


def test_collisions_by_harm_with_paths(source: Path) -> None:
    make(source / "a", "f", "f", "d", "f")
    make(source / "b", "f", "d", "d")
    os.link(source / "a" / "0", source / "a" / "again")
    with opened(source) as tree:
        nodes = {path: walk(tree, path) for path in ("a/0", "a/again", "a/1", "a/2", "a/3", "b/0", "b/1", "b/2")}
        found = told(tree, "collisions.json")
        assert (found["format"], found["version"], found["map"]) == ("fusemap-collisions", 1, "suffix")
        assert (found["known_inodes"], found["averted_files"]) == (10, 8)
        assert found["averted"] == {"loop": 2, "error": 1, "mixed": 1}
        assert (found["real"], found["real_files"]) == (dict.fromkeys(HARMS, 0), 0)
        assert [row["harm"] for row in found["collisions"]] == ["loop", "loop", "error", "mixed"]
        for row in found["collisions"]:
            assert (row["real"], row["count"], len(row["files"])) == (False, 2, 2)
            for file in row["files"]:
                path = source / file["path"]
                assert path.lstat().st_ino == file["inode"] == row["number"]
                assert path.is_dir() == file["directory"]
                node = walk(tree, file["path"])
                assert (node.number, node.device.key) == (file["number"], file["device"])
        pairs = {frozenset(file["path"] for file in row["files"]) for row in found["collisions"]}
        assert pairs - {frozenset({"a/again", "b/0"})} >= {frozenset({"a", "b"}), frozenset({"a/1", "b/1"})}
        nobody = told(tree, "collisions.json", names=False)
        assert nobody.pop("collisions") == [
            {**row, "files": [{**file, "path": None} for file in row["files"]]} for row in found.pop("collisions")
        ]
        assert nobody == found
        for node in nodes.values():
            tree.forget(node)
        tree.forget(nodes["b/0"], 0)
        assert told(tree, "collisions.json")["known_inodes"] < 10


def test_a_path_is_told_only_where_the_file_is_there(source: Path) -> None:
    odd = b"\xff \n\"name"
    (source / "a" / "d").mkdir()
    with open(os.fsencode(source / "a" / "d") + b"/" + odd, "w"):
        pass
    with opened(source) as tree:
        directory = walk(tree, "a/d")
        node, _ = tree.lookup(directory, odd)
        assert path_of(tree, tree.root) == b"."
        assert path_of(tree, node) == b"a/d/" + odd
        assert path_below(tree, directory, b"x") == b"a/d/x"
        assert path_below(tree, tree.root, b"x") == b"x"
        (source / "a" / "d").rename(source / "a" / "moved")
        assert path_of(tree, node) == b"a/moved/" + odd
        fd = tree.open(node, os.O_RDONLY)
        tree.opened(node, fd)
        os.unlink(os.fsencode(source / "a" / "moved") + b"/" + odd)
        assert path_of(tree, node) is None
        with open(os.fsencode(source / "a" / "moved") + b"/" + odd + b" (deleted)", "w"):
            assert path_of(tree, node) is None  # which is just how the kernel calls the deleted one
        tree.closed(node, fd)
        os.close(fd)
        assert path_of(tree, node) is None
        os.unlink(os.fsencode(source / "a" / "moved") + b"/" + odd + b" (deleted)")
        (source / "a" / "moved").rmdir()
        assert path_of(tree, directory) is None


def test_a_file_that_nobody_has_opened_since_the_cache_went_has_a_path_or_none(stage: Stage) -> None:
    source = stage.ext4("src")
    (source / "d").mkdir()
    (source / "d" / "f").touch()
    with opened(source) as tree:
        node, directory = walk(tree, "d/f"), walk(tree, "d")
        tree.rest()
        drop_caches()
        assert path_of(tree, node) in (None, b"d/f")
        assert path_of(tree, directory) == b"d"


def test_names_that_are_no_text_come_as_in_a_scan(source: Path) -> None:
    odd = b"\xff\xc3\xa4\n"
    for name in (b"a", b"b"):
        os.mkdir(os.fsencode(source) + b"/" + name + b"/" + odd)
    with opened(source) as tree:
        for name in ("a", "b"):
            tree.lookup(walk(tree, name), odd)
        telling = Telling(tree, "fuse", Statistics())
        content = telling.text("collisions.json", telling.gather("collisions.json"))
    assert content.isascii()
    assert content.endswith(b"\n")
    paths = {file["path"] for row in json.loads(content)["collisions"] for file in row["files"]}
    assert {os.fsencode(path) for path in paths} == {b"a", b"b", b"a/" + odd, b"b/" + odd}


def test_a_directory_in_two_places_is_no_collision(stage: Stage) -> None:
    source = stage.tmpfs("src")
    (source / "a" / "sub").mkdir(parents=True)
    stage.bind(source / "a", "src/again")
    with opened(source) as tree:
        one, two = walk(tree, "a/sub"), walk(tree, "again/sub")
        assert one.number != two.number
        assert told(tree, "collisions.json")["averted_files"] == 0
        assert value(tree, one, "collides") == b"0"


class _Fake:
    """As many nodes as wanted, of any inodes and devices."""

    def __init__(self, files: list[tuple[int, int, bool]]) -> None:
        devices = [SimpleNamespace(key=f"device {n}") for n in range(9)]
        self._nodes = [
            cast("Node", SimpleNamespace(
                number=n, device=devices[device], inode=inode, kind=stat.S_IFDIR if directory else stat.S_IFREG
            ))
            for n, (device, inode, directory) in enumerate(files)
        ]  # fmt: skip

    def nodes(self) -> list[Node]:
        return list(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12) | st.just(1 << 63), st.booleans()), max_size=60))
def test_a_survey_finds_what_looking_at_every_pair_finds(files: list[tuple[int, int, bool]]) -> None:
    files = list({(device, inode): (device, inode, directory) for device, inode, directory in files}.values())
    by_inode: dict[int, list[tuple[int, int, bool]]] = defaultdict(list)
    for file in files:
        by_inode[file[1]].append(file)
    groups = {inode: some for inode, some in by_inode.items() if len(some) > 1}
    harms = {inode: ("mixed", "error", "loop")[min(2, sum(file[2] for file in some))] for inode, some in groups.items()}
    found = Survey(cast("Tree", _Fake(files))).take()
    assert found.known == len(files)
    assert found.files == sum(map(len, groups.values()))
    assert found.numbers == {harm: list(harms.values()).count(harm) for harm in HARMS}
    assert {group.inode: group.harm for group in found.groups} == harms
    assert [HARMS.index(group.harm) for group in found.groups] == sorted(HARMS.index(harm) for harm in harms.values())
    for group in found.groups:
        assert sorted((m.device, m.directory) for m in group.members) == sorted(
            (f"device {device}", directory) for device, _, directory in groups[group.inode]
        )


def test_a_survey_of_many_files_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(survey.time, "monotonic", lambda: now)
    monkeypatch.setattr(survey.time, "sleep", lambda seconds: passes.append(seconds))
    passes: list[float] = []
    tree = _Fake([(n % 2, n // 2, False) for n in range(9000)])
    kept = Survey(cast("Tree", tree))
    assert not kept.quick
    found = kept.take()
    assert (found.files, found.numbers["mixed"], len(found.groups)) == (9000, 4500, LISTED)
    assert len(passes) > 8, "there must be pauses"
    kept._last = found, 200.0
    assert kept.quick
    assert kept.take() is found
    now = 200.0
    assert not kept.quick
    assert kept.take() is not found
    del tree._nodes[2000:]
    assert kept.quick
    assert kept.take().known == 2000, "few files are looked through every time"


# Statistics, devices, table -------------------------------------------------------------------------------------------

STATS = {
    "format", "version", "front", "source", "map", "k", "pid", "time", "uptime", "operations", "errors", "bytes_read",
    "bytes_written", "known_inodes", "descriptors", "descriptor_limit", "devices", "collisions_averted",
    "collisions_real", "more",
}  # fmt: skip


def test_statistics(source: Path) -> None:
    make(source / "a", "f")
    make(source / "b", "f")
    statistics = Statistics()
    for took in (1, 900, 1_000_000, 1_048_576):
        statistics.took("lookup", took)
    statistics.errors[errno.ENOENT] += 3
    statistics.bytes_read, statistics.bytes_written = 7, 8
    with opened(source) as tree:
        walk(tree, "a/0"), walk(tree, "b/0")
        telling = Telling(tree, "9p", statistics, more=lambda: {"more": 1})
        found = json.loads(telling.text("stats.json", telling.gather("stats.json")))
        assert set(found) == STATS
        assert found["descriptors"] == len(os.listdir("/proc/self/fd")) - 1
    latency = [[0.002, 1], [1.024, 1], [1048.576, 1], [2097.152, 1]]
    seconds = pytest.approx(0.002049477)
    row = {"count": 4, "timed": 4, "seconds": seconds, "slowest": 0.001048576, "latency": latency}
    assert found["operations"] == {"lookup": row}
    assert (found["errors"], found["bytes_read"], found["bytes_written"]) == ({"2": 3}, 7, 8)
    assert (found["front"], found["map"], found["k"], found["source"]) == ("9p", "suffix", 0, str(source))
    assert (found["known_inodes"], found["devices"], found["pid"]) == (5, 3, os.getpid())
    assert (found["collisions_averted"], found["collisions_real"]) == (2, 0)


@pytest.mark.parametrize("mode", ["suffix", "prefix", "qemu", "raw"])
def test_devices(stage: Stage, mode: str) -> None:
    source = stage.directory("src")
    overlay = stage.overlay("src/overlay", lowers=2)
    (overlay / "own").touch()
    mapper = Mapper("suffix" if mode in ("qemu", "raw") else mode)
    shown = Shown(Mapper(mode)) if mode in ("qemu", "raw") else None
    with opened(source, mapper) as tree:
        for path in ("overlay/from-0", "overlay/from-1", "overlay/own"):
            node = walk(tree, path)
            if shown is not None:
                shown.number(node.device.key, node.inode)
        root, device = told(tree, "devices.json", shown)
        used = tree.mapper if shown is None else shown.mapper
        key, lasting = walk(tree, "overlay").device.key, walk(tree, "overlay").device.identity.lasting
    numbers = os.stat(overlay).st_dev
    assert {name: device[name] for name in device if name != "entries"} == {
        "identity": key, "lasting": lasting, "st_dev": f"{os.major(numbers)}:{os.minor(numbers)}", "kind": "overlay",
        "mounted": [str(overlay)], "full_map": 0, "known_inodes": 4,
    }  # fmt: skip
    assert root["known_inodes"] == 1
    entries = {entry.index: entry for entry in used.entries() if entry.device == key}
    assert {entry["index"] for entry in device["entries"]} == set(entries)
    assert bool(entries) == (mode != "raw")
    for entry in device["entries"]:
        known = entries[entry["index"]]
        assert (int(entry["affix"], 2), entry["length"], entry["top"]) == (known.affix, known.length, known.top)
        assert (len(entry["affix"]), entry["at"]) == (known.length, "")


def test_the_full_map_is_counted_by_device(source: Path) -> None:
    make(source / "a", "f", "f")
    with opened(source, Mapper(source=Allocator(65535))) as tree:
        walk(tree, "a/0"), walk(tree, "a/1")
        rows = told(tree, "devices.json")
        number = walk(tree, "a/1")
        assert len(value(tree, number, "affix")) == 33
    assert [row["full_map"] for row in rows] == [0, 3]


def test_bind_mounts_that_overlap_are_named_by_their_place(stage: Stage) -> None:
    source = stage.tmpfs("src")
    (source / "a" / "sub").mkdir(parents=True)
    (source / "b").mkdir()
    stage.bind(source / "a", "src/b")
    with opened(source) as tree:
        walk(tree, "a/sub"), walk(tree, "b/sub")
        (device,) = told(tree, "devices.json")
    assert [entry["at"] for entry in device["entries"]] == ["", "b"]
    assert sorted(device["mounted"]) == [str(source), str(source / "b")]


def test_the_table(stage: Stage) -> None:
    source = stage.ext4("src")
    tmpfs = stage.tmpfs("src/tmpfs")
    table = open_table(source)
    with opened(source, table.mapper()) as tree:
        walk(tree, "tmpfs")
        telling = Telling(tree, "fuse", Statistics(), None, table)
        found = json.loads(telling.text("table.json", telling.gather("table.json")))
        assert (found["state"], found["exists"], found["map"], found["full"]) == ("xattr", True, "suffix", 0)
        assert [entry["affix"] for entry in found["entries"]] == ["1", "010"]
        assert [device["mounted"] for device in found["devices"]] == [[str(source)], [str(tmpfs)]]
        assert [entry["device"] for entry in found["entries"]] == [device["key"] for device in found["devices"]]
    table.close()


def test_long_work_is_told_from_short(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(source) as tree:
        telling = Telling(tree, "fuse", Statistics())
        assert all(telling.quick(name) for name in FILES)
        monkeypatch.setattr(survey, "SMALL", 0)
        assert [name for name in FILES if telling.quick(name)] == ["table.json"]
        tree.mapper.learn(tree.mapper.entry(9, "other", 0))
        monkeypatch.setattr("fusemap.tree.telling._FEW", -1)
        assert not any(telling.quick(name) for name in FILES)


# Maps that collide ----------------------------------------------------------------------------------------------------


def test_a_real_collision_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    shown = Shown(Mapper("raw"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert shown.show("one", 7, False, lambda: None) == 7
            assert shown.show("one", 7, False, lambda: b"a/\xff\n") == 7
            assert shown.show("two", 7, True, lambda: b"b") == 7
            assert shown.show("two", 8, True, lambda: b"c") == 8
    (line,) = caplog.messages
    assert line == r"number 7 is shown for two files: 'a/\udcff\n' (inode 7 of one) and 'b' (inode 7 of two)"
    assert (shown.files, shown.numbers()) == (2, {"loop": 0, "error": 1, "mixed": 0})
    assert shown.others(7, "one", 7) == [Owner("two", 7, True, b"b")]
    assert shown.others(8, "two", 8) == []
    shown.show("three", 7, True, lambda: None)
    assert (shown.files, shown.numbers()) == (3, {"loop": 1, "error": 0, "mixed": 0})
    assert "number 7 is shown for two files: 'a/" in caplog.messages[-1]
    assert "and a file (inode 7 of three)" in caplog.messages[-1]
    ((number, harm, owners),) = shown.collisions()
    assert (number, harm, [owner.device for owner in owners]) == (7, "loop", ["one", "two", "three"])


def test_thousands_of_collisions_are_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    shown = Shown(Mapper("raw"))
    with caplog.at_level(logging.WARNING):
        for inode in range(5000):
            for device in ("one", "two"):
                shown.show(device, inode, False, lambda: b"f")
    assert sum("is shown for two files" in line for line in caplog.messages) == LOGGED
    assert len(caplog.messages) == LOGGED + 1 + 5  # 200, 400, ..., 3200
    assert "3200 files are shown with the number of another" in caplog.messages[-1]
    assert shown.files == 10000


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("fusemap.tree.shown.REMEMBERED", 10)
    shown = Shown(Mapper("raw"))
    for inode in range(30):
        shown.show("one", inode, False, lambda: None)
    assert caplog.messages == ["10 files were shown; collisions of further ones are not noticed"]
    for inode in range(30):
        shown.show("two", inode, False, lambda: None)
    assert shown.files == 10


def test_a_map_that_collides_averts_only_what_it_shows_apart(source: Path) -> None:
    make(source / "a", "f", "f")
    make(source / "b", "f", "f")
    with opened(source) as tree:
        nodes = [walk(tree, path) for path in ("a/0", "b/0", "a/1", "b/1")]
        for mode, real, averted in (("raw", 1, 0), ("qemu", 0, 3)):
            shown = Shown(Mapper(mode))
            for node in nodes[:2]:
                shown.show(node.device.key, node.inode, False, lambda node=node: path_of(tree, node))  # type: ignore[misc]
            found = told(tree, "collisions.json", shown)
            assert (sum(found["real"].values()), sum(found["averted"].values())) == (real, averted)
            assert sum(row["real"] for row in found["collisions"]) == real
            if real:
                (row,) = found["collisions"]
                assert {file["path"] for file in row["files"]} == {"a/0", "b/0"}
                assert {file["number"] for file in row["files"]} == {row["number"]} == {nodes[0].inode}
                assert told(tree, "collisions.json", shown, names=False)["collisions"][0]["files"][0]["path"] is None
            assert told(tree, "stats.json", shown)["collisions_real"] == real


# Attributes -----------------------------------------------------------------------------------------------------------


def value(tree: Tree, node: Node, word: str, shown: Shown | None = None, names: bool = True) -> bytes:
    return virtual(tree, node, b"user.fusemap." + word.encode(), tree.stat(node), shown, names)


@pytest.mark.parametrize(("mode", "k"), [("suffix", 0), ("suffix", 5), ("suffix", 8), ("prefix", 0)])
def test_the_affix_is_a_part_of_the_number(stage: Stage, mode: str, k: int) -> None:
    source = stage.directory("src")
    overlay = stage.overlay("src/overlay", lowers=3)
    (overlay / "own").touch()
    seen = set()
    with opened(source, Mapper(mode, k)) as tree:
        for path in ("", "overlay", "overlay/from-0", "overlay/from-1", "overlay/from-2", "overlay/own"):
            node = walk(tree, path)
            affix = value(tree, node, "affix").decode()
            bits = f"{node.number:064b}"
            assert bits.startswith(affix) if mode == "prefix" else bits.endswith(affix)
            (entry,) = [
                entry
                for entry in tree.mapper.entries()
                if f"{entry.affix:0{entry.length}b}" == affix and entry.device == node.device.key
            ]
            assert entry.top == node.inode >> 64 - entry.length
            seen.add(affix)
            told = QID(*map(int, value(tree, node, "qid").split(b"/")))
            now = tree.stat(node)
            stamp = version(
                now.mtime_s * 10**9 + now.mtime_ns, now.ctime_s * 10**9 + now.ctime_ns, now.size
            )
            assert told == QID(0x80 if node.kind == stat.S_IFDIR else 0, stamp, node.number)
            assert value(tree, node, "device") == node.device.key.encode()
            assert value(tree, node, "inode") == b"%d" % (source / path).lstat().st_ino
    assert len(seen) > 2


def test_attributes_with_maps_that_collide(source: Path) -> None:
    make(source / "a", "f")
    with opened(source) as tree:
        node = walk(tree, "a/0")
        os.symlink("x", source / "a" / "link")
        link = walk(tree, "a/link")
        now = tree.stat(node)
        raw, qemu = Shown(Mapper("raw")), Shown(Mapper("qemu"))
        assert value(tree, node, "affix", raw) == b""
        assert int(value(tree, node, "qid", raw).split(b"/")[2]) == node.inode
        assert value(tree, node, "affix", qemu) == b"1"
        assert value(tree, node, "qid", qemu) == b"0/%d/%d" % (version_qemu(now.mtime_s, now.size), node.inode << 1 | 1)
        assert value(tree, link, "qid", raw).startswith(b"2/")


def test_who_else_has_the_inode_number(source: Path) -> None:
    make(source / "a", "f", "d")
    make(source / "b", "d", "f")
    (source / "b" / "1").rename(source / "b" / "\x1b[1m")
    with opened(source) as tree:
        nodes = {path: walk(tree, path) for path in ("a/0", "a/1", "b/0")}
        assert value(tree, nodes["a/0"], "collides") == b"1\nb/0"
        assert value(tree, nodes["b/0"], "collides") == b"1\na/0"
        assert value(tree, nodes["b/0"], "collides", names=False) == b"1"
        assert value(tree, nodes["a/1"], "collides") == b"0", "the other is not known"
        walk(tree, "b/\x1b[1m")
        assert value(tree, nodes["a/1"], "collides") == b"1\nb/\\x1b[1m"
        (source / "b" / "0").rmdir()
        assert value(tree, nodes["a/0"], "collides") == b"1\n-"
        raw = Shown(Mapper("raw"))
        assert value(tree, nodes["a/0"], "collides", raw) == b"0"
        for path, node in nodes.items():
            raw.show(node.device.key, node.inode, False, path.encode)
        assert value(tree, nodes["a/0"], "collides", raw) == b"1\nb/0"
        with pytest.raises(OSError) as failed:
            value(tree, nodes["a/0"], "other")
        assert failed.value.errno == errno.ENODATA
