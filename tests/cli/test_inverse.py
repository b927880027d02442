"""fusemap id and fusemap where: from a file to its number and back."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.command import fusemap, one_sentence
from ..support.house import PARTS, House, Pair
from ..support.process import ALICE
from ..support.stage import Stage


@pytest.fixture
def files(house: House, pair: Pair) -> Iterator[dict[str, Path]]:
    """One file of each kind, by kind, as the mount shows it."""
    (pair.host / "file").write_text("f")
    (pair.host / "directory").mkdir()
    os.symlink("file", pair.host / "symlink")
    os.symlink("nowhere", pair.host / "dangling")
    os.mkfifo(pair.host / "fifo")
    os.mknod(pair.host / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(pair.host, os.O_PATH)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    (pair.host / "closed").write_text("x")
    (pair.host / "closed").chmod(0)
    (pair.host / os.fsdecode(b"raw \xff")).write_text("x")
    yield {path.name: pair.seen / path.name for path in pair.host.iterdir()} | {"root": house.mounted.path}


def host_of(house: House, path: Path) -> os.stat_result:
    return os.lstat(house.source / path.relative_to(house.mounted.path))


@pytest.mark.parametrize("user", [None, ALICE], ids=["root", "alice"])
def test_id_tells_number_device_and_inode_of_every_kind_of_file(
    house: House, files: dict[str, Path], user: object
) -> None:
    done = fusemap("id", "--json", *files.values(), user=user)  # type: ignore[arg-type]
    assert (done.returncode, done.stderr) == (0, "")
    for path, row in zip(files.values(), json.loads(done.stdout), strict=True):
        assert row["number"] == os.lstat(path).st_ino
        assert row["inode"] == host_of(house, path).st_ino
        assert row["device"]
        assert row["path"].encode() == os.fsencode(path).replace(b"\xff", b"\\xff")
    lines = fusemap("id", *files.values()).stdout.splitlines()
    assert len(lines) == len(files)
    assert lines[0].split("\t")[0] == str(os.lstat(next(iter(files.values()))).st_ino)


def test_id_says_one_device_for_files_of_one_file_system(house: House) -> None:
    rows = json.loads(fusemap("id", "--json", house.mounted.path, *(house.mounted / part for part in PARTS)).stdout)
    assert len({row["device"] for row in rows}) == len(PARTS) + 1
    pair = house.pair("one", "xfs")
    (pair.host / "f").touch()
    rows = json.loads(fusemap("id", "--json", pair.seen / "f", house.mounted / "xfs").stdout)
    assert len({row["device"] for row in rows}) == 1


def test_where_is_the_way_back(house: House, files: dict[str, Path]) -> None:
    for path in files.values():
        done = fusemap("where", "--json", house.mounted.path, str(os.lstat(path).st_ino))
        assert (done.returncode, done.stderr) == (0, ""), path
        told = json.loads(done.stdout)
        assert told["inode"] == host_of(house, path).st_ino
        assert told["paths"] == [os.fsencode(path).decode("utf-8", "backslashreplace")]


def test_where_finds_every_name_of_a_file(house: House, pair: Pair) -> None:
    (pair.host / "one").touch()
    for name in ("two", "three"):
        os.link(pair.host / "one", pair.host / name)
    number = str(os.stat(pair.seen / "one").st_ino)
    lines = fusemap("where", house.mounted.path, number).stdout.splitlines()
    assert sorted(line.split("\t")[2] for line in lines) == sorted(
        str(pair.seen / name) for name in ("one", "two", "three")
    )
    assert len(fusemap("where", "--first", house.mounted.path, number).stdout.splitlines()) == 1


def test_where_finds_files_below_mounts(house: House) -> None:
    for part in PARTS:
        pair = house.pair("where", part)
        (pair.host / "f").touch()
        done = fusemap("where", house.mounted.path, str(os.stat(pair.seen / "f").st_ino))
        assert done.stdout.split("\t")[2:] == [f"{pair.seen / 'f'}\n"], part


def test_where_says_no(house: House, pair: Pair) -> None:
    done = fusemap("where", house.mounted.path, "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert one_sentence(done.stderr)
    (pair.host / "f").touch()
    number = str(os.stat(pair.seen / "f").st_ino)
    os.unlink(pair.seen / "f")
    done = fusemap("where", "--json", house.mounted.path, number)
    assert done.returncode == 1
    assert json.loads(done.stdout)["paths"] == []


@pytest.mark.parametrize("verb", ["id", "where"])
def test_what_is_no_fusemap_mount_is_said_so(house: House, stage: Stage, verb: str) -> None:
    (stage.path / "f").touch()
    number = ["5"] if verb == "where" else []
    for path in (stage.path / "f", stage.path, Path("/proc/self")):
        done = fusemap(verb, path, *number)
        assert done.returncode == 2
        assert one_sentence(done.stderr)
        assert "not" in done.stderr
    done = fusemap(verb, stage.path / "missing", *number)
    assert done.returncode == 2
    assert "No such file" in done.stderr
    assert one_sentence(done.stderr)


@pytest.mark.parametrize(
    "arguments", [["id"], ["where"], ["where", "/"], ["where", "/", "x"], ["where", "/", "1", "2"]], ids=" ".join
)
def test_wrong_usage(arguments: list[str]) -> None:
    done = fusemap(*arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_where_in_the_raw_mode_answers_by_the_number_shown(stage: Stage) -> None:
    """Two files with one number: where has to name both, or to say so."""
    source = stage.directory("src")
    for name in ("a", "b"):
        (stage.tmpfs(source / name) / "f").write_text(name)
    mounted = stage.fusemap(source, "--map", "raw")
    number = os.stat(mounted / "a/f").st_ino
    assert number == os.stat(mounted / "b/f").st_ino
    done = fusemap("where", mounted.path, str(number))
    assert done.returncode == 0, done.stderr
    assert sorted(line.split("\t")[2] for line in done.stdout.splitlines()) == [
        f"{mounted / 'a/f'}",
        f"{mounted / 'b/f'}",
    ]
    rows = json.loads(fusemap("id", "--json", mounted / "a/f", mounted / "b/f").stdout)
    assert [row["number"] for row in rows] == [number, number]
    assert rows[0]["device"] != rows[1]["device"]
