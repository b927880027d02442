"""fusemap scan as a user types it: exit status, JSON, and that nothing on the tree changes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fusemap.census import SCHEMES

from ..support.command import fusemap, refused
from ..support.process import ALICE, attempt, run
from ..support.stage import FUSEMAP, Stage


@pytest.fixture
def tree(stage: Stage) -> Path:
    """Two file systems whose inodes are the same; one name is no UTF-8 and would turn a terminal red."""
    top = stage.tmpfs("tree")
    stage.tmpfs("tree/inner")
    for place in (top, top / "inner"):
        (place / os.fsdecode(b"\xff\x1b[31m")).touch()
        (place / "two").touch()
        os.link(place / "two", place / "three")
    return top


def scanned(*arguments: str | Path) -> Any:
    done = fusemap("scan", "--json", *arguments)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_the_default_is_what_a_plain_export_would_show(tree: Path) -> None:
    done = fusemap("scan", tree)
    assert (done.returncode, done.stderr) == (1, "")
    assert "files share" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\\xff\\x1b[31m" in done.stdout


def test_fusemaps_own_numbers_do_not_collide(tree: Path) -> None:
    done = fusemap("scan", tree, "--map", "suffix", "--map", "prefix")
    assert (done.returncode, done.stderr) == (0, "")
    assert "suffix: every file has a number of its own" in done.stdout


def test_one_chosen_scheme_that_collides_is_enough(tree: Path) -> None:
    assert fusemap("scan", tree, "--map", "suffix", "--map", "raw").returncode == 1


def test_json_says_everything(tree: Path) -> None:
    found = scanned(tree, "--map", "raw", "--map", "suffix")
    assert list(found) == [
        "format", "version", "root", "names", "files", "vanished", "unreadable", "unreadable_more", "from_table",
        "devices", "schemes", "budget", "collisions",
    ]  # fmt: skip
    assert (found["format"], found["version"], found["root"]) == ("fusemap-scan", 1, str(tree))
    assert found["names"] == sum(device["names"] for device in found["devices"])
    assert found["files"] == sum(device["files"] for device in found["devices"])
    assert found["names"] - found["files"] == 2
    assert [device["path"] for device in found["devices"]] == [".", "inner"]
    assert [[affix["bits"] for affix in device["affixes"]] for device in found["devices"]] == [["1"], ["010"]]
    assert found["collisions"]["suffix"] == []
    raw = found["collisions"]["raw"]
    assert len(raw) == sum(found["schemes"]["raw"]["numbers"].values()) > 0
    for collision in raw:
        assert len(collision["files"]) == 2
        for file in collision["files"]:
            st = os.lstat(tree / file["path"])
            assert st.st_ino == file["inode"] == collision["number"]
            assert f"{os.major(st.st_dev)}:{os.minor(st.st_dev)}" == found["devices"][file["device"]]["st_dev"]
    assert set(found["schemes"]) == {"raw", "prefix", "qemu", "suffix", "xor", "xxh64", "xxh32", "samba"}
    assert found["budget"] == {"affixes": 2, "full_map": 0, "numberless": 0, "spent": 0.625}


def test_two_scans_say_the_same(tree: Path) -> None:
    assert fusemap("scan", "--json", tree).stdout == fusemap("scan", "--json", tree).stdout


def test_nothing_is_made_and_a_table_is_read(stage: Stage) -> None:
    tree = stage.ext4("tree")
    stage.ext4("tree/a")
    stage.ext4("tree/b")
    assert not scanned(tree)["from_table"]
    assert os.listxattr(tree) == []
    assert os.listdir(stage.state) == []
    mounted = stage.fusemap(tree)
    for name in ("b", "a"):  # not in the order of a scan
        os.stat(mounted / name)
    numbers = {name: os.stat(mounted / name).st_ino for name in (".", "a", "b")}
    assert mounted.unmount() == 0
    before = {name: os.getxattr(tree, name) for name in os.listxattr(tree)}
    assert before
    found = scanned(tree)
    assert found["from_table"]
    assert {name: os.getxattr(tree, name) for name in os.listxattr(tree)} == before
    for device in found["devices"]:
        (affix,) = device["affixes"]
        inode = os.stat(tree / device["path"]).st_ino
        assert numbers[device["path"]] == inode << len(affix["bits"]) | int(affix["bits"], 2)


def test_a_reader_that_goes_away(tree: Path) -> None:
    for number in range(2000):
        (tree / f"{number}").touch()
        (tree / "inner" / f"{number}").touch()
    done = attempt("sh", "-c", '"$@" | head -c 9', "-", *FUSEMAP, "scan", "--json", tree)
    assert (len(done.stdout), done.stderr) == (9, "")


def test_a_full_disk_is_said_in_a_sentence(tree: Path) -> None:
    done = attempt("sh", "-c", '"$@" > /dev/full', "-", *FUSEMAP, "scan", "--json", tree)
    refused(done, "No space left")


def test_no_room_to_write_down_what_is_found(stage: Stage) -> None:
    tree = stage.directory("tree")
    for number in range(600):
        (tree / f"{number:0200}").touch()
    small = stage.tmpfs("small", "size=64k")
    done = fusemap("scan", tree, env={"TMPDIR": str(small)})
    refused(done, f"in {small}", "No space left on device", "set TMPDIR")
    assert os.listdir(small) == []
    done = fusemap("scan", tree, env={"TMPDIR": str(stage.path / "nowhere")})
    refused(done, "nowhere", "No such file", "set TMPDIR")


def test_a_tree_that_is_mounted_read_only(stage: Stage) -> None:
    tree = stage.ext4("tree")
    stage.ext4("tree/inner")
    mounted = stage.fusemap(tree)
    os.stat(mounted / "inner")
    assert mounted.unmount() == 0
    before = scanned(tree)
    assert before["from_table"]
    for path in (tree / "inner", tree):
        run("mount", "-o", "remount,ro", path)
    assert scanned(tree) == before


def test_an_ordinary_user_sees_what_he_may(tree: Path) -> None:
    closed = os.fsdecode(b"closed-\xff\x1b[31m")
    (tree / closed).mkdir(0o700)
    (tree / closed / "inside").touch()
    (tree / "inner" / "secret").mkdir(0o700)
    done = fusemap("scan", tree, "--json", user=ALICE)
    assert done.stderr == ""
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["unreadable"] == [
        {"path": closed, "why": "Permission denied"}, {"path": "inner/secret", "why": "Permission denied"}
    ]  # fmt: skip
    assert found["names"] == scanned(tree)["names"] - 1
    text = fusemap("scan", tree, user=ALICE).stdout
    assert r"not read: closed-\xff\x1b[31m: Permission denied" in text
    assert "what is in them is not counted: scan as root" in text


def test_a_loop_of_bind_mounts(stage: Stage, tree: Path) -> None:
    (tree / "deep" / "er").mkdir(parents=True)
    stage.mount(tree, "tree/deep/er", "--rbind")
    stage.bind(tree / "deep", tree / "inner" / "dir")
    found = scanned(tree, "--map", "suffix")
    assert found["files"] == len({(st.st_dev, st.st_ino) for st in map(os.lstat, below(tree))})
    assert found["names"] == len(below(tree)) > found["files"]
    assert found["collisions"]["suffix"] == []


def below(top: Path) -> list[str]:
    """Every path of a tree, itself included."""
    found = [str(top)]
    for where, directories, files in os.walk(os.fsencode(top)):
        found += [os.fsdecode(os.path.join(where, name)) for name in (*directories, *files)]
    return found


def test_a_named_device(tree: Path) -> None:
    found = scanned(tree, "--name", f"{tree}/inner=scratch")
    assert [device["lasting"] for device in found["devices"]] == [False, True]
    assert found["devices"][1]["key"] == "name:scratch"


def test_a_copy_is_not_taken_for_its_original(stage: Stage) -> None:
    top = stage.tmpfs("tree")
    image = stage.image("ext4")
    copy = stage.path / "copy.ext4"
    copy.write_bytes(image.read_bytes())
    for name, file in (("one", image), ("two", copy)):
        stage.mount(file, top / name, "-o", "loop")
    found = scanned(top, "--map", "suffix")
    assert len({device["key"] for device in found["devices"]}) == 3
    assert not any(device["lasting"] for device in found["devices"])
    assert not found["collisions"]["suffix"]


def test_all_schemes_can_be_chosen(tree: Path) -> None:
    assert list(scanned(tree, *(word for name in SCHEMES for word in ("--map", name)))["collisions"]) == list(SCHEMES)


@pytest.mark.parametrize("name", ["missing", "inner/two"])
def test_a_source_that_is_no_directory(tree: Path, name: str) -> None:
    refused(fusemap("scan", tree / name), name)


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--map", "nonsense"]], ids=" ".join)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = fusemap("scan", *arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr
