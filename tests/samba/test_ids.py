"""The ids that SMB clients see are the numbers of the mount, on every file system and for every kind of file.

One tree of ext4, xfs, two btrfs subvolumes, tmpfs and overlay is shared as a mount and, as the negative control, as it
is. `fusemap check --smb` is the judge, and smbprotocol's own client the judge of the judge.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import smbclient

from fusemap.cli.main import main

from ..p9.served import Served
from ..support import needs
from ..support.command import fusemap
from ..support.house import PARTS, build_parts
from ..support.process import ALICE, ROOT, SECONDS
from ..support.stage import FUSEMAP, Stage, watchdog
from ..support.trees import replace
from .client import Client
from .smbd import Share, Smbd

LONG = 110.0
LONGEST = 280.0  # for what takes fifteen seconds on a machine that has nothing else to do
MANY = 10_000
LOW = (1 << 32) - 1


class Place:
    """The tree, its mount, a 9P server of it, and an smbd with the shares."""

    def __init__(self, stage: Stage) -> None:
        needs.tools("smbd")
        self.source = stage.ext4("tree")
        build_parts(stage, self.source)
        for part in ("", *PARTS):
            _fill(self.source / part)
        self.mounted = stage.fusemap(self.source)
        self.served = Served(self.source, stage.path, listen=f"unix:{stage.path}/9p")
        stage.after(self.served.close)
        self.smbd = Smbd(
            stage,
            {
                "tree": self.mounted.path,
                "plain": self.source,
                "streams": Share(self.mounted.path, vfs=["streams_xattr"]),
                "mac": Share(self.mounted.path, vfs=["catia", "fruit", "streams_xattr"]),
                "good-mac": Share(
                    self.mounted.path,
                    vfs=["catia", "fruit", "streams_xattr"],
                    settings={"fruit:zero_file_id": "no"},
                ),
            },
        )

    def check(self, share: str, *arguments: str | Path, status: int = 0) -> str:
        """What `fusemap check --smb` prints. It runs in this process, since loading the libraries takes its time."""
        words = ["--smb", self.smbd.unc(share), "--user", "root", *map(str, arguments)]
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            done = main(["check", *words])
        assert (done, err.getvalue()) == (status, ""), out.getvalue() + err.getvalue()
        return out.getvalue()

    def found(self, share: str, *arguments: str | Path, status: int = 0) -> Any:
        """What it says as JSON."""
        return json.loads(self.check(share, *arguments, "--json", status=status))


def _fill(top: Path) -> None:
    """Files of every kind."""
    (top / "file").write_text("file")
    os.link(top / "file", top / "hard")
    (top / "directory" / "deeper").mkdir(parents=True)
    (top / "directory" / "deeper" / "ünï").write_text("x")
    os.link(top / "file", top / "directory" / "hard")
    os.symlink("file", top / "link")
    os.symlink("..", top / "directory" / "round")
    os.symlink("nowhere", top / "dangling")
    os.mkfifo(top / "fifo")
    (top / "UPPER").touch()
    (top / "upper").touch()
    (top / "col:on").touch()
    (top / os.fsdecode(b"raw \xff")).touch()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    stage = Stage()
    try:
        with watchdog.limit(LONG):
            place = Place(stage)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FUSEMAP_SMB_PASSWORD", place.smbd.password)
            yield place
    finally:
        with watchdog.limit(LONG):
            stage.close()


def test_five_columns_are_equal_and_unique(place: Place) -> None:
    found = place.found("tree", place.mounted.path, "--9p", place.served.address)
    assert found["columns"] == ["host", "st_ino", "opened", "listed", "9p"]
    assert found["wrong"] == []
    assert found["mac_ids"] == "same"
    assert (found["vanished"], found["unreadable"]) == (0, [])
    assert len(found["devices"]) == len(PARTS) + 1
    parts = ["", *(f"{part}/" for part in PARTS)]
    assert sorted(found["unshown"]) == sorted(f"{part}{name}" for part in parts for name in ("dangling", "raw \udcff"))
    assert sorted(found["renamed"]) == sorted(f"{part}col:on" for part in parts)
    rows = {row["path"]: row for row in found["rows"]}
    assert len(rows) == found["files"]
    files: dict[int, set[tuple[str, int]]] = {}
    for path, row in rows.items():
        host = os.lstat(place.source / path)
        seen = os.lstat(place.mounted / path)
        assert (row["inode"], row["st_ino"], row["9p"]) == (host.st_ino, seen.st_ino, seen.st_ino), path
        assert row["opened"] == row["listed"] == os.stat(place.mounted / path).st_ino, path
        if row["kind"] != "symlink":
            files.setdefault(row["opened"], set()).add((found["devices"][row["device"]], row["inode"]))
    assert all(len(each) == 1 for each in files.values())
    for part in parts:
        kinds = {name: rows[part + name]["kind"] for name in ("file", "directory", "link", "fifo")}
        assert kinds == {"file": "file", "directory": "directory", "link": "symlink", "fifo": "file"}
        assert rows[f"{part}hard"]["opened"] == rows[f"{part}directory/hard"]["opened"] == rows[f"{part}file"]["opened"]


def test_another_client_says_the_same(place: Place) -> None:
    rows = {row["path"]: row for row in place.found("tree")["rows"]}
    with Client(place.smbd, "tree", ALICE) as client:
        for part in PARTS:
            listed = client.listed(part)
            for name in ("file", "hard", "link", "directory", "fifo"):
                path = f"{part}/{name}"
                assert rows[path]["opened"] == client.opened(path) == listed[name], path


def test_on_another_machine_the_ids_are_compared_with_each_other(place: Place) -> None:
    found = place.found("tree")
    assert found["columns"] == ["opened", "listed"]
    assert (found["tree"], found["devices"], found["wrong"], found["unshown"]) == (None, [], [], [])
    assert {(row["device"], row["inode"], row["st_ino"], row["9p"]) for row in found["rows"]} == {(None,) * 4}
    with_9p = place.found("tree", "--9p", place.served.address)
    assert with_9p["columns"] == ["opened", "listed", "9p"]
    assert with_9p["wrong"] == []
    links = [row for row in with_9p["rows"] if row["kind"] == "symlink"]
    assert len(links) == 2 * (len(PARTS) + 1)


@pytest.mark.parametrize("beneath", ["source", "mount"])
def test_a_plain_share_is_found_out(place: Place, beneath: str) -> None:
    """Device numbers inside, inodes truncated, two files of an overlay with one id; whichever TREE is named."""
    found = place.found("plain", place.source if beneath == "source" else place.mounted.path, status=1)
    causes = {path: wrong["cause"] for wrong in found["wrong"] for path in wrong["paths"] if wrong["kind"] == "differs"}
    rows = {row["path"]: row for row in found["rows"]}
    for part in PARTS:
        host = os.lstat(place.source / part / "file")
        row = rows[f"{part}/file"]
        assert row["opened"] == row["listed"] == (host.st_dev & LOW) << 32 | (host.st_ino & LOW)
        assert causes[f"{part}/file"] == "device"
    assert causes.get("file") == (None if beneath == "source" else "host")
    top = [os.lstat(place.source / "overlay" / name).st_ino for name in ("from-0", "from-1")]
    assert top[0] != top[1]
    assert top[0] & LOW == top[1] & LOW, "the layers' inodes are not the same"
    assert rows["overlay/from-0"]["opened"] == rows["overlay/from-1"]["opened"]
    duplicates = {path for wrong in found["wrong"] for path in wrong["paths"] if wrong["kind"] == "duplicate"}
    assert {"overlay/from-0", "overlay/from-1"} <= duplicates


def test_a_plain_share_is_explained(place: Place) -> None:
    text = " ".join(place.check("plain", place.mounted.path, status=1).split())
    assert "hold a device number and the low 32 bits of an inode number" in text
    assert "let the share's path be a fusemap mount" in text


def test_a_share_that_begins_above_the_mount_is_found_out(place: Place, stage: Stage) -> None:
    """The mount is then another device than the share's root, and Samba truncates our numbers too."""
    above = stage.directory("above")
    (above / "beside").touch()
    mounted = stage.fusemap(stage.ext4("src"), at="above/mnt")
    smbd = Smbd(stage, {"above": above}, users=[ROOT])
    env = {"FUSEMAP_SMB_PASSWORD": smbd.password}
    done = fusemap("check", "--json", "--smb", smbd.unc("above"), above, "--user", "root", env=env)
    assert done.returncode == 1, done.stderr
    wrong = json.loads(done.stdout)["wrong"]
    assert [each["cause"] for each in wrong if each["paths"] == ["mnt"]] == ["device"]
    assert mounted.process.poll() is None


def test_two_clients_at_once(place: Place) -> None:
    """Both look at everything, while a third one makes and renames files."""
    env = {**os.environ, "FUSEMAP_SMB_PASSWORD": place.smbd.password}
    words = [*FUSEMAP, "check", "--smb", place.smbd.unc("tree"), str(place.mounted.path), "--json"]
    looking = [
        subprocess.Popen([*words, "--user", user], stdout=subprocess.PIPE, env=env) for user in ("root", "root")
    ]
    try:
        busy = 0
        with Client(place.smbd, "tree", ROOT) as client:
            client.call(smbclient.mkdir, "xfs/busy")
            while any(each.poll() is None for each in looking) and busy < 200:
                client.write("xfs/busy/one", b"1")
                client.write("xfs/busy/two", b"2")
                client.call(smbclient.replace, "xfs/busy/two", "xfs/busy/one")
                client.call(smbclient.remove, "xfs/busy/one")
                busy += 1
            answers = [json.loads(each.communicate(timeout=SECONDS)[0]) for each in looking]
            client.call(smbclient.rmdir, "xfs/busy")
    finally:
        for each in looking:
            each.kill()
            each.wait()
            assert each.stdout is not None
            each.stdout.close()
    assert busy > 0
    assert [each.returncode for each in looking] == [0, 0], answers
    one, two = ({row["path"]: row for row in each["rows"] if "busy" not in row["path"]} for each in answers)
    assert one == two
    assert len(one) > 50


def test_rename_replace_delete_and_links(place: Place) -> None:
    """What one client does, another one sees, with the id that the mount's st_ino says."""
    with Client(place.smbd, "tree") as doer, Client(place.smbd, "tree", ALICE) as other:

        def number(name: str) -> int:
            due = os.stat(place.mounted / "subvol-a" / name).st_ino
            for client in (doer, other):
                assert client.opened(f"subvol-a/{name}") == due
                assert client.listed(f"subvol-a/{name}".rpartition("/")[0])[name.rpartition("/")[2]] == due
            return due

        at = "subvol-a/"
        doer.call(smbclient.mkdir, at + "doing")
        doer.write(at + "doing/a", b"a")
        doer.write(at + "doing/b", b"b")
        a, b = number("doing/a"), number("doing/b")
        doer.call(smbclient.rename, at + "doing/a", at + "doing/c")
        assert number("doing/c") == a
        doer.call(smbclient.replace, at + "doing/b", at + "doing/c")
        assert number("doing/c") == b
        assert "b" not in other.listed(at + "doing")
        doer.call(smbclient.link, at + "doing/c", at + "doing/hard")
        assert number("doing/hard") == b
        doer.call(smbclient.remove, at + "doing/c")
        assert number("doing/hard") == b
        doer.call(smbclient.mkdir, at + "doing/directory")
        directory = number("doing/directory")
        doer.call(smbclient.rename, at + "doing/directory", at + "doing/moved")
        assert number("doing/moved") == directory
        doer.call(smbclient.rename, at + "doing", at + "done")
        assert (number("done/moved"), number("done/hard")) == (directory, b)
        other.listed(at + "done")
        doer.call(smbclient.remove, at + "done/hard")
        for name in ("done/moved", "done"):
            doer.call(smbclient.rmdir, at + name)


@pytest.mark.parametrize("part", PARTS)
def test_streams_are_of_their_file(place: Place, part: str) -> None:
    """A stream has its file's id, and a file keeps its id when it is given one."""
    with Client(place.smbd, "streams") as client:
        path = f"{part}/file"
        before = client.opened(path)
        assert before == os.stat(place.mounted / path).st_ino
        client.write(f"{path}:notes", b"in the margin")
        try:
            assert client.opened(f"{path}:notes") == client.opened(path) == before
            assert client.listed(part)["file"] == before
        finally:
            client.call(smbclient.remove, f"{path}:notes")


def test_with_streams_the_columns_are_the_same(place: Place) -> None:
    assert place.found("streams", place.mounted.path)["wrong"] == []


def test_macs_need_ids_that_are_not_zero(place: Place) -> None:
    found = place.found("mac", place.mounted.path)
    assert (found["wrong"], found["mac_ids"]) == ([], "zero")
    found = place.found("mac", place.mounted.path, "--as-mac", status=1)
    assert {wrong["kind"] for wrong in found["wrong"]} == {"zero"}
    assert len(found["wrong"]) == found["files"]
    assert "note: to Macs every id is 0: set fruit:zero_file_id = no" in place.check("mac")
    assert "which Samba's fruit module sends" in place.check("mac", "--as-mac", status=1)


def test_as_a_mac_with_the_settings_that_macs_need(place: Place) -> None:
    found = place.found("good-mac", place.mounted.path, "--as-mac")
    assert (found["wrong"], found["mac_ids"]) == ([], None)
    assert place.found("good-mac")["mac_ids"] == "same"


def test_deleted_and_created_again(stage: Stage) -> None:
    """The host uses the inode number again; with --reuse new-number no client ever sees an id for a second file."""
    source = stage.ext4("src")
    keep = stage.fusemap(source, "--cache", "none", "--state", "none")
    new = stage.fusemap(source, "--cache", "none", "--reuse", "new-number", at="new")
    smbd = Smbd(stage, {"keep": keep.path, "new": new.path}, users=[ROOT])
    with Client(smbd, "keep") as kept, Client(smbd, "new") as renewed:
        (source / "f").touch()
        first = kept.opened("f"), renewed.opened("f")
        replace(source / "f", Path.touch)
        for mount, client in ((keep, kept), (new, renewed)):
            assert client.opened("f") == client.listed("")["f"] == os.stat(mount / "f").st_ino
        second = kept.opened("f"), renewed.opened("f")
    assert second[0] == first[0]
    assert second[1] != first[1]


def test_ten_thousand_files(stage: Stage) -> None:
    source = stage.ext4("src")
    inner = stage.tmpfs("src/inner")
    for number in range(MANY):
        (source if number % 2 else inner).joinpath(f"file{number}").touch()
    mounted = stage.fusemap(source)
    smbd = Smbd(stage, {"tree": mounted.path}, users=[ROOT])
    env = {"FUSEMAP_SMB_PASSWORD": smbd.password}
    words = ("--smb", smbd.unc("tree"), "--user", "root")
    with watchdog.limit(LONGEST):
        done = fusemap("check", *words, "--json", env=env, timeout=LONGEST)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr
    found = json.loads(done.stdout)
    assert found["files"] == MANY + 3  # the root, lost+found, inner
    assert len({row["opened"] for row in found["rows"]}) == MANY + 3
    for row in found["rows"]:
        assert row["opened"] == row["listed"] == os.lstat(mounted / row["path"]).st_ino
