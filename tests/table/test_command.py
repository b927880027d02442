"""`fusemap table` and `fusemap check`, as an administrator calls them."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from pathlib import Path

import pytest

from fusemap.cli import check, table
from fusemap.errors import FusemapError
from fusemap.table import open_table
from fusemap.table.present import base_key, device_key_of, present
from fusemap.table.v1 import PREFIX as V1
from fusemap.table.xattr import PREFIX

from ..support import needs
from ..support.stage import Stage
from .shelves import BOOT, LATER, key

FLIPPED = 30


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a table of three devices in its attributes."""
    path = tmp_path / "tree"
    path.mkdir()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    try:
        os.setxattr(path, "user.probe", b"x")
        os.removexattr(path, "user.probe")
    except OSError as error:
        needs.missing(f"the temporary directory holds no attributes: {error.strerror}")
    fill(path, 3)
    return path


def fill(path: Path, count: int, state: str = "auto") -> list[int]:
    """Give devices their first numbers."""
    opened = open_table(path, state)
    mapper = opened.mapper()
    numbers = [mapper.path(key(number), 5) for number in range(1, count + 1)]
    opened.close()
    return numbers


def fusemap(*words: object) -> int:
    """What `fusemap WORDS` exits with."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    table.add(verbs)
    check.add(verbs)
    options = parser.parse_args([str(word) for word in words])
    try:
        return int(options.run(options))
    except FusemapError as error:
        print(f"fusemap: {error}", file=sys.stderr)
        assert "\n" not in str(error)
        return 2


def test_show(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fusemap("table", "show", tree) == 0
    text = capsys.readouterr().out
    assert f"{key(2)}\tnot mounted here" in text
    assert "    2\t010\t3 bits\ttop bits 0x0" in text
    assert "3 of 65535 entries used, 0 retired, 65532 left; 0 files in the full map" in text
    assert fusemap("table", "show", tree, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["entries"][1] == {"index": 2, "device": key(2), "affix": "010", "length": 3, "top": 0}
    assert (shown["state"], shown["map"], shown["k"], shown["left"]) == ("xattr", "suffix", 0, 65532)
    assert [device["entries"] for device in shown["devices"]] == [1, 1, 1]


def test_show_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fusemap("table", "show", tmp_path, "--state", f"sqlite:{tmp_path}/t.sqlite") == 1
    assert "no table yet" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert fusemap("table", "show", tmp_path / "nothing") == 2
    assert fusemap("table", "show", tmp_path, "--state", "nonsense") == 2


def test_devices_are_shown_where_they_are_mounted(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    tree = stage.ext4("tree")
    disk = stage.ext4("tree/disk")
    opened = open_table(tree, directory=str(stage.directory("state")))
    mapper = opened.mapper()
    for device in present(str(tree)):
        mapper.path(device.key, 5)
        mapper.path(f"{device.key}#2 at some/where", 5)
    opened.close()
    assert fusemap("table", "show", tree, "--json") == 0
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert [device["mounted"] for device in devices] == [[str(tree)], [str(tree)], [str(disk)], [str(disk)]]


def test_what_is_present(stage: Stage) -> None:
    tree = stage.ext4("tree")
    image = stage.image("ext4")
    stage.mount(image, "tree/one", "-o", "loop")
    copy = stage.path / "copy"
    copy.write_bytes(image.read_bytes())
    scratch = stage.tmpfs("tree/scratch")
    stage.tmpfs("elsewhere")
    found = present(str(tree), {str(scratch): "scratch"})
    assert [device.point.removeprefix(str(tree)) for device in found] == ["", "/one", "/scratch"]
    assert found[2].key == "name:scratch"
    assert [device_key_of(found, device.dev) for device in found] == [device.key for device in found]
    stage.mount(copy, "tree/two", "-o", "loop")
    found = present(str(tree))
    assert device_key_of(found, found[1].dev) is None  # one of two with this uuid
    assert device_key_of(found, 12345) is None


@pytest.mark.parametrize("name", ["uuid:1", "session:a:1:0:5", "btrfs:x:y", "name:a.b"])
def test_base_keys(name: str) -> None:
    for tail in ("", "#2", " at a/b c", "#3 at x#y at z"):
        assert base_key(name + tail) == name


def test_export_and_import_of_json(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fusemap("table", "export", tree, "-o", tmp_path / "t.json") == 0
    other = f"sqlite:{tmp_path}/o.sqlite"
    (tmp_path / "empty").mkdir()
    assert fusemap("table", "import", tmp_path / "empty", tmp_path / "t.json", "--state", other) == 0
    assert "3 entries imported" in capsys.readouterr().out
    assert fusemap("table", "export", tree) == 0
    one = json.loads(capsys.readouterr().out)
    assert fusemap("table", "export", tmp_path / "empty", "--state", other) == 0
    assert json.loads(capsys.readouterr().out) == one
    # Again, and with more: nothing changes but what is new.
    fill(tree, 5)
    assert fusemap("table", "export", tree, "-o", tmp_path / "t.json") == 0
    assert fusemap("table", "import", tmp_path / "empty", tmp_path / "t.json", "--state", other) == 0
    assert "2 entries imported" in capsys.readouterr().out


def test_an_import_that_contradicts_changes_nothing(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fusemap("table", "export", tree)
    data = json.loads(capsys.readouterr().out)
    before = {name: os.getxattr(tree, name) for name in os.listxattr(tree)}
    wrongs: list[object] = [
        {**data, "entries": [{"index": 1, "device": key(2), "length": 1, "top": 0}]},
        {**data, "map": "prefix", "entries": []},
        {**data, "map": "raw"},
        {**data, "entries": [{"index": 1, "device": "unknown", "top": 0}]},
        {**data, "entries": [{"index": 1, "device": key(1), "top": 0, "length": 3}]},
        {**data, "version": 2},
        {**data, "devices": 7},
        {**data, "next": {}},
        {**data, "k": -1},
        {**data, "id": "zz"},
        {},
        [],
        None,
    ]
    for wrong in wrongs:
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(wrong)))
        status = fusemap("table", "import", tree, "-")
        assert status == 2 or wrong == wrongs[1], wrong
    monkeypatch.setattr(sys, "stdin", io.StringIO("no json"))
    assert fusemap("table", "import", tree, "-") == 2
    assert fusemap("table", "import", tree) == 2
    assert fusemap("table", "import", tree, tree / "nothing") == 2
    assert {name: os.getxattr(tree, name) for name in os.listxattr(tree)} == before


def test_export_and_import_of_v1(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    tree = stage.ext4("tree")
    stage.tmpfs("tree/scratch")
    place = str(stage.directory("state"))
    opened = open_table(tree, directory=place)
    mapper = opened.mapper()
    keys = [device.key for device in present(str(tree))]
    numbers = [mapper.path(device, 12) for device in keys]
    mapper.path("uuid:gone", 12)
    opened.close()
    assert fusemap("table", "export", tree, "--format", "v1") == 0
    assert "2 entries" in capsys.readouterr().out
    assert {V1 + "qidp.0", V1 + "qidd.0"} <= set(os.listxattr(tree))
    for name in os.listxattr(tree):
        if name.startswith(PREFIX):
            os.removexattr(tree, name)
    assert fusemap("table", "import", tree, "--format", "v1") == 0
    opened = open_table(tree, directory=place)
    mapper = opened.mapper()
    assert [mapper.path(device, 12) for device in keys] == numbers
    assert mapper.path("uuid:new", 12) == 12 << 5 | 0b00100
    opened.close()


def test_gc(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fusemap("table", "gc", tree) == 0
    assert "0 devices were dropped" in capsys.readouterr().out
    opened = open_table(tree, boot=BOOT)
    opened.mapper().path(f"session:{BOOT}:1", 5)
    ledger = opened.ledger()
    old = int(time.time() // 86400) - 40
    ledger.apply(ledger.devices[key(2)]._replace(seen=old))
    opened.replace(ledger)
    opened.close()
    assert fusemap("table", "gc", tree, "--dry-run", "--unseen", "30", "--json") == 0
    assert json.loads(capsys.readouterr().out)["devices"] == [key(2), f"session:{BOOT}:1"]
    assert fusemap("table", "gc", tree, "--device", "uuid:unknown") == 2
    assert fusemap("table", "gc", tree, "--device", present(str(tree))[0].key) == 2
    assert fusemap("table", "gc", tree, "--unseen", "50") == 0
    assert fusemap("table", "gc", tree, "--device", key(1)) == 0
    opened = open_table(tree, boot=LATER)
    assert [device.key for device in opened.devices()] == [key(2), key(3)]
    assert opened.ledger().retired == {1, 4}
    assert opened.mapper().path("uuid:new", 5) == 5 << 5 | 0b10100
    opened.close()


def test_repair_of_attributes(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fill(tree, 6)
    assert fusemap("table", "repair", tree) == 0
    assert "nothing to repair" in capsys.readouterr().out
    name = PREFIX + "a.0"
    data = bytearray(os.getxattr(tree, name))
    data[FLIPPED] ^= 4
    os.setxattr(tree, name, bytes(data))
    assert fusemap("table", "show", tree) == 2
    assert name in capsys.readouterr().err
    damaged = {name: os.getxattr(tree, name) for name in os.listxattr(tree)}
    assert fusemap("table", "repair", tree) == 1
    out = capsys.readouterr().out
    assert "one flipped bit" in out
    assert "6 entries can be saved, which is all of them" in out
    assert {name: os.getxattr(tree, name) for name in os.listxattr(tree)} == damaged
    assert fusemap("table", "repair", tree, "--write", tmp_path / "pieces.json") == 0
    assert set(json.loads((tmp_path / "pieces.json").read_text())["pieces"]) == {
        name.removeprefix(PREFIX) for name in damaged
    }
    assert fill(tree, 6) == before


def test_repair_of_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tree").mkdir()
    state = f"sqlite:{tmp_path}/t.sqlite"
    before = fill(tmp_path / "tree", 6, state)
    data = bytearray((tmp_path / "t.sqlite").read_bytes())
    at = data.index(b"fmap\x01")
    data[at + 20] ^= 1
    (tmp_path / "t.sqlite").write_bytes(data)
    assert fusemap("table", "show", tmp_path / "tree", "--state", state) == 2
    assert fusemap("table", "repair", tmp_path / "tree", "--state", state, "--write", tmp_path / "p.json") == 0
    assert fill(tmp_path / "tree", 6, state) == before
    assert any(".damaged-" in path.name for path in tmp_path.iterdir())


def test_repair_where_nothing_is_left(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in os.listxattr(tree):
        os.setxattr(tree, name, b"junk")
    assert fusemap("table", "repair", tree) == 2
    assert "nothing can be saved" in capsys.readouterr().err
    assert os.getxattr(tree, PREFIX + "a.0") == b"junk"


# check ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    path = tmp_path / "files"
    (path / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (path / name).write_text(name)
    os.link(path / "a", path / "sub" / "link")
    os.symlink("nowhere", path / "dangling")
    (path / os.fsdecode(b"odd-\xff")).write_text("x")
    return path


def test_check_finds_nothing_wrong(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fusemap("check", files) == 0
    assert "8 files, 0 wrong" in capsys.readouterr().out
    assert fusemap("check", files, "--save", tmp_path / "numbers") == 0
    assert fusemap("check", files, "--against", tmp_path / "numbers") == 0
    (files / "new").write_text("x")
    (files / "b").unlink()
    capsys.readouterr()
    assert fusemap("check", files, "--against", tmp_path / "numbers", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["files"], report["new"], report["gone"], report["changed"]) == (8, 1, 1, [])


def test_check_sees_a_changed_number(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fusemap("check", files, "--save", tmp_path / "numbers") == 0
    (files / "a.new").write_text("a")
    was = os.lstat(files / "a").st_ino
    os.rename(files / "a.new", files / "a")
    assert fusemap("check", files, "--against", tmp_path / "numbers") == 1
    assert f"number changed\t{os.lstat(files / 'a').st_ino}\ta\twas {was}" in capsys.readouterr().out


def test_check_sees_duplicates_and_other_listings(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file system here has them, so lstat tells a lie, as a mount with colliding numbers would."""
    real = os.lstat

    def lie(path: str | os.PathLike[str]) -> os.stat_result:
        st = real(path)
        if os.path.basename(path) == "b":
            return os.stat_result((st[0], real(files / "sub/c").st_ino, *st[2:]))
        return st

    monkeypatch.setattr(os, "lstat", lie)
    assert fusemap("check", files, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert [sorted(row["paths"]) for row in report["duplicates"]] == [["b", "sub/c"]]
    assert [row["path"] for row in report["d_ino_differs"]] == ["b"]
    assert fusemap("check", files) == 1
    assert "one number for two files" in capsys.readouterr().out


def test_check_refuses_what_it_cannot_do(files: Path, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("{}")
    assert fusemap("check", files / "a") == 2
    assert fusemap("check", files / "nothing") == 2
    assert fusemap("check", files, "--against", tmp_path / "nothing") == 2
    assert fusemap("check", files, "--against", tmp_path / "junk") == 2
    assert fusemap("check", files, "--save", tmp_path / "no" / "where") == 2
