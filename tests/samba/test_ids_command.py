"""`fusemap check --smb` as an administrator types it: who looks, what is said, and what is refused."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..cli.here import here
from ..p9.served import Served
from ..support.command import Result, one_sentence, refused
from ..support.process import ALICE, ROOT, SECONDS
from ..support.stage import FUSEMAP, Stage, watchdog
from .smbd import Share, Smbd

WIDTH = 80
PASSWORD = "FUSEMAP_SMB_PASSWORD"


class Place:
    """A mount of two file systems, shared with users and with guests."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.source = stage.ext4("tree")
        inner = stage.tmpfs("tree/inner")
        for top in (self.source, inner):
            for number in range(20):
                (top / f"file{number}").touch()
        (self.source / "closed").mkdir(0o700)
        (self.source / "closed" / "secret").touch()
        self.mounted = stage.fusemap(self.source)
        everybody = {"guest ok": "yes", "read only": "yes"}
        self.smbd = Smbd(
            stage,
            {
                "tree": self.mounted.path,
                "open": Share(self.mounted.path, settings=everybody),
                "inner": self.mounted / "inner",
                "signed": self.mounted.path,
            },
            users=[ROOT, ALICE],
        )

    def check(self, share: str, *arguments: str | Path, user: str = "root") -> Result:
        """`fusemap check --smb`."""
        return here("check", "--smb", self.smbd.unc(share), "--user", user, *arguments)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    stage = Stage()
    try:
        with watchdog.limit(SECONDS):
            place = Place(stage)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(PASSWORD, place.smbd.password)
            yield place
    finally:
        with watchdog.limit(SECONDS):
            stage.close()


def test_the_table_fits_a_terminal(place: Place) -> None:
    done = place.check("tree", place.mounted.path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert "45 files, on 2 devices, in 4 columns: host, st_ino, opened, listed" in lines
    header = next(line for line in lines if line.split()[:1] == ["host"])
    assert header.split() == ["host", "st_ino", "opened", "listed", "path"]
    row = next(line.split() for line in lines if line.endswith(" inner/"))
    number = str(os.stat(place.mounted / "inner").st_ino)
    assert row == ["1:1", number, number, number, "inner/"]
    assert "and 25 more; --json lists them all" in lines
    assert lines[-1] == "every file has an id of its own, the same in all columns"


def test_a_wrong_share_is_told_on_a_terminal(place: Place) -> None:
    """TREE is the tree itself here, and the share that of the mount: nothing but the names is right."""
    done = place.check("tree", place.source)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert any(re.fullmatch(r"not the same everywhere: \d+", line) for line in lines)
    assert lines[-1].endswith("files are not as they should be")


def test_a_mount_whose_numbers_collide_is_found_out(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """--map raw: the columns agree with each other, and two files have one id."""
    source = stage.ext4("tree")
    inner = stage.tmpfs("tree/inner")
    for top in (source, inner):
        for number in range(20):
            (top / f"file{number}").write_bytes(bytes(number))
    mounted = stage.fusemap(source, "--map", "raw")
    smbd = Smbd(stage, {"tree": mounted.path}, users=[ROOT])
    monkeypatch.setenv(PASSWORD, smbd.password)
    for tree in ([mounted.path], []):
        done = here("check", "--smb", smbd.unc("tree"), *tree, "--user", "root", "--json")
        assert (done.returncode, done.stderr) == (1, "")
        wrong = json.loads(done.stdout)["wrong"]
        assert {each["kind"] for each in wrong} == {"duplicate"}
        numbers = {os.lstat(source / name).st_ino: name for name in os.listdir(source)}
        due = {frozenset((numbers[st.st_ino], f"inner/{n}")) for n in os.listdir(inner)
               if (st := os.lstat(inner / n)).st_ino in numbers}  # fmt: skip
        found = {frozenset(each["paths"]) for each in wrong}
        assert due
        assert due <= found if tree else due & found, "without TREE, files that were made in one moment look the same"


def test_saved_ids_are_those_of_the_mount(place: Place, tmp_path: Path) -> None:
    of_mount, of_share = tmp_path / "mount.json", tmp_path / "share.json"
    assert here("check", place.mounted.path, "--save", of_mount).returncode == 0
    assert place.check("tree", "--save", of_share).returncode == 0
    assert json.loads(of_share.read_bytes()) == json.loads(of_mount.read_bytes())
    assert place.check("tree", "--against", of_mount).stdout.splitlines()[-2:] == [
        f"compared with {of_mount}: 0 changed, 0 new, 0 gone",
        "every file has an id of its own, the same in all columns, and the same as then",
    ]
    numbers = json.loads(of_mount.read_bytes())
    numbers["numbers"]["inner/file3"] += 8
    del numbers["numbers"]["inner/file4"]
    numbers["numbers"]["inner/missing"] = 1
    of_mount.write_text(json.dumps(numbers))
    done = place.check("tree", "--against", of_mount, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    was = numbers["numbers"]["inner/file3"]
    assert found["wrong"] == [{"kind": "changed", "paths": ["inner/file3"], "cause": None, "was": was}]
    assert (found["new"], found["gone"]) == (1, 1)


def test_json_says_everything(place: Place) -> None:
    done = place.check("tree", place.mounted.path, "--json")
    found = json.loads(done.stdout)
    assert list(found) == [
        "format", "version", "share", "tree", "9p", "columns", "files", "devices", "wrong", "new", "gone", "mac_ids",
        "alike", "renamed", "unshown", "vanished", "unreadable", "rows",
    ]  # fmt: skip
    assert (found["format"], found["version"]) == ("fusemap-check-smb", 1)
    assert (found["share"], found["tree"], found["9p"]) == (place.smbd.unc("tree"), str(place.mounted.path), None)
    assert [list(row) for row in found["rows"][:1]] == [
        ["path", "kind", "device", "inode", "st_ino", "opened", "listed", "9p"]
    ]
    assert found["rows"][0]["path"] == "."
    assert found["files"] == len(found["rows"]) == 45


def test_a_guest_looks(place: Place) -> None:
    done = here("check", "--json", "--smb", place.smbd.unc("open"), place.mounted.path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert _denied(found) == {"closed", "lost+found"}
    assert found["files"] == 44
    done = here("check", "--smb", place.smbd.unc("open"))
    assert "not read: closed: Permission denied" in done.stdout


def test_a_share_of_a_directory_in_the_mount(place: Place) -> None:
    with Served(place.source, place.stage.path, listen="tcp:127.0.0.1:0") as served:
        more = ("--9p", served.address, "--aname", "inner")
        done = place.check("inner", place.mounted / "inner", *more)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "in 5 columns" in done.stdout
        done = place.check("inner", place.mounted / "inner", "--9p", served.address, "--json")
        assert done.returncode == 1
        refused(place.check("inner", "--9p", served.address, "--aname", "nowhere"), "nowhere", "No such file")


@pytest.mark.parametrize("server", ["mandatory", "disabled"])
def test_signed_and_unsigned(stage: Stage, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    """Samba may demand signatures, or do without."""
    (stage.directory("src") / "file").touch()
    smbd = Smbd(stage, {"src": stage.path / "src"}, {"server signing": server}, users=[ROOT])
    monkeypatch.setenv(PASSWORD, smbd.password)
    done = here("check", "--smb", smbd.unc("src"), stage.path / "src", "--user", "root")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_encrypted_share(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (stage.directory("src") / "file").touch()
    smbd = Smbd(stage, {"src": stage.path / "src"}, {"server smb encrypt": "required"}, users=[ROOT])
    monkeypatch.setenv(PASSWORD, smbd.password)
    done = here("check", "--smb", smbd.unc("src"), stage.path / "src", "--user", "root")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_password(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("check", "--smb", place.smbd.unc("tree"), "--user", "root")
    monkeypatch.setenv(PASSWORD, "wrong")
    refused(here(*words), "LOGON_FAILURE", "check the name and the password")
    monkeypatch.delenv(PASSWORD)
    refused(here(*words), "no password", PASSWORD)
    file = tmp_path / "password"
    file.write_text(f"{place.smbd.password}\nmore\n")
    file.chmod(0o644)
    refused(here(*words, "--password-file", file), "can be read by others", "chmod 600")
    file.chmod(0o600)
    assert here(*words, "--password-file", file).returncode == 0
    refused(here(*words, "--password-file", tmp_path / "missing"), "missing", "No such file")
    file.write_bytes(b"\xff\xfe")
    refused(here(*words, "--password-file", file), "no text")


def test_a_terminal_is_asked_and_shown_the_progress(place: Place) -> None:
    """The password is not echoed; the count of files is shown while they are looked at, and taken away."""
    asked = {name: value for name, value in os.environ.items() if name != PASSWORD}
    leader, terminal = pty.openpty()
    with os.fdopen(leader, "rb+", buffering=0) as screen:
        words = [*FUSEMAP, "check", "--smb", place.smbd.unc("tree"), "--user", "root", str(place.mounted.path)]
        child = subprocess.Popen(
            words, env=asked, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(terminal), os.O_RDWR)),
        )  # fmt: skip
        os.close(terminal)
        try:
            shown = _until(screen.fileno(), b"Password of root: ")
            assert not termios.tcgetattr(screen.fileno())[3] & termios.ECHO
            screen.write(f"{place.smbd.password}\n".encode())
            shown += _until(screen.fileno(), b"the same in all columns")
            assert child.wait(SECONDS) == 0
        finally:
            child.kill()
            child.wait()
    assert place.smbd.password.encode() not in shown
    assert re.search(rb"\r\x1b\[K\d+ files", shown)
    assert b"\r\x1b[K" in shown


def _until(terminal: int, words: bytes) -> bytes:
    """What is shown until these words are."""
    shown = b""
    while words not in shown:
        assert select.select([terminal], [], [], SECONDS)[0], f"no {words!r} after {shown!r}"
        shown += os.read(terminal, 4096)
    return shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--user", "nobody-here"], ["ACCESS_DENIED"]),
        (["--9p", "tcp:127.0.0.1:1"], ["cannot connect to tcp:127.0.0.1:1"]),
        (["--9p", "http://x"], ["no address of a 9P server"]),
        (["--against", "/nonexistent"], ["/nonexistent"]),
        (["/nonexistent"], ["/nonexistent"]),
        (["/etc/passwd"], ["not a directory"]),
        (["/proc/self/fdinfo"], ["no name in common"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_said(place: Place, arguments: list[str], words: list[str]) -> None:
    user = [] if "--user" in arguments else ["--user", "root"]
    done = here("check", "--smb", place.smbd.unc("tree"), *user, *arguments)
    refused(done, *words)


def test_a_share_that_is_not_there(place: Place) -> None:
    refused(place.check("nothing"), "BAD_NETWORK_NAME", "check the share's name")


def test_what_alice_may_not_see(place: Place) -> None:
    done = place.check("tree", place.mounted.path, "--json", user="alice")
    assert (done.returncode, done.stderr) == (0, "")
    assert _denied(json.loads(done.stdout)) == {"closed", "lost+found"}


def _denied(found: Any) -> set[str]:
    return {each["path"] for each in found["unreadable"] if each["why"] == "Permission denied"}


def test_a_server_that_goes_away(stage: Stage) -> None:
    (stage.directory("src") / "file").touch()
    smbd = Smbd(stage, {"src": stage.path / "src"}, users=[ROOT])
    from fusemap.errors import Refused
    from fusemap.smb.address import parse
    from fusemap.smb.share import Share as Connection

    with Connection(parse(smbd.unc("src")), "root", smbd.password) as share:
        assert isinstance(share.ids(["file"])[0], int)
        smbd.kill()
        with pytest.raises(Refused, match="has ended the connection") as said:
            for _ in range(3):
                share.ids(["file"])
    assert one_sentence(f"fusemap: {said.value}\n")
