"""Programs of the host's in a guest, on a tree that the host serves: what they leave is what they leave on a disk."""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import TEST_SECONDS
from ..p9.served import Served
from ..support import needs
from ..support.describe import describe_tree
from ..support.process import run
from ..support.stage import Stage, watchdog
from .toolbox import OWN, Toolbox

PARTS = (".", "ext4", "tmpfs")
COPIES = {
    "cp": "cp -a {0}/. {1}",
    "tar": "tar --xattrs --acls -C {0} -cf - . | tar --xattrs --acls -C {1} -xpf -",
    "rsync": "rsync -aHAX {0}/ {1}",
}
TOLD = """
find . -mindepth 1 -printf '%P %M %n %U %G %s %l %T@\\n' | sort
find . -type f -print0 | sort -z | xargs -0 sha256sum
getfattr -Rhd -m - .
getfacl -Rnp .
"""
ROWS = 2000


@pytest.fixture(scope="module")
def export(place: Stage) -> Path:
    """An ext4 with "source", which is several file systems: the inode numbers of two of them are the same."""
    needs.tools("rsync", "git", "sqlite3", "setfacl", "setfattr")
    top = place.ext4("export")
    (top / "source").mkdir()
    place.ext4(top / "source" / "ext4")
    place.tmpfs(top / "source" / "tmpfs")
    for part in PARTS:
        fill(top / "source" / part, attributes=part != "tmpfs")
    for path in [top / "source", *(top / "source").rglob("*")]:
        os.utime(path, ns=(10**18, 10**18 + 7 * 10**9), follow_symlinks=False)  # the client cuts times to seconds
    return top


def fill(top: Path, attributes: bool) -> None:
    """Files of all kinds."""
    (top / "d" / "e").mkdir(parents=True)
    for n in range(8):
        (top / "d" / f"file{n}").write_bytes(os.urandom(n * 1000))
    os.link(top / "d" / "file1", top / "d" / "e" / "hard")
    os.link(top / "d" / "file1", top / "hard")
    os.symlink("d/nowhere", top / "dangling")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    os.mknod(top / "block", 0o60600, os.makedev(7, 300))
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe\nodd name")).write_text("odd")
    (top / "set-id").write_text("#!/bin/sh\n")
    os.chown(top / "set-id", 61001, 62000)
    (top / "set-id").chmod(0o6755)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o3775)
    with open(top / "sparse", "wb") as file:
        file.truncate(1 << 20)
        file.seek(500_000)
        file.write(b"in the middle")
    if attributes:
        os.setxattr(top / "d" / "file2", "user.text", b"a value")
        os.setxattr(top / "d", "user.bytes", bytes(range(256)))
        run("setfacl", "-m", "u:61001:r,g:62000:rw", top / "d" / "file3")
        run("setfacl", "-d", "-m", "u:61001:rwx", top / "d" / "e")


@pytest.fixture(scope="module")
def server(place: Stage, export: Path) -> Iterator[Served]:
    """`fusemap serve` of it."""
    with watchdog.limit(TEST_SECONDS):
        served = Served(export, place.path)
    with served:
        yield served


@pytest.fixture
def share(box: Toolbox, server: Served) -> Iterator[str]:
    """Where the guest has it."""
    at = box.mount(server.address, "share", cache="mmap", access="client", posixacl="")
    yield at
    box.unmount(at)
    server.check_log()


def test_a_tree_looks_the_same(box: Toolbox, share: str, export: Path) -> None:
    host = run("/bin/sh", "-euc", TOLD, cwd=export / "source").stdout
    assert box.sh(f"cd {share}/source; {TOLD}") == host


@pytest.mark.parametrize("tool", COPIES)
def test_copies(box: Toolbox, share: str, export: Path, tool: str) -> None:
    ours, theirs = f"guest-{tool}", export / f"host-{tool}"
    theirs.mkdir()
    run("/bin/sh", "-euc", COPIES[tool].format(export / "source", theirs))
    box.sh(f"mkdir {share}/{ours}; " + COPIES[tool].format(f"{share}/source", f"{share}/{ours}"))
    assert describe_tree(export / ours) == describe_tree(theirs)
    # and what the guest sees of its copy is what the host sees of its own
    host = run("/bin/sh", "-euc", TOLD, cwd=theirs).stdout
    assert box.sh(f"cd {share}/{ours}; {TOLD}") == host


def sql(box: Toolbox, path: str, statement: str) -> str:
    """What sqlite3 says in the guest."""
    return box.sh(f"sqlite3 -batch -bail -cmd '.timeout 30000' {path} {shlex.quote(statement)}").strip()


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite(box: Toolbox, share: str, export: Path, journal: str) -> None:
    path, host = f"{share}/{journal}.db", export / f"{journal}.db"
    assert sql(box, path, f"PRAGMA journal_mode={journal}") == journal
    sql(
        box,
        path,
        "CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT); WITH RECURSIVE up(n) AS (VALUES(1) UNION ALL SELECT n + 1 "
        f"FROM up WHERE n < {ROWS}) INSERT INTO t SELECT n, hex(randomblob(40)) FROM up",
    )
    add = f"sqlite3 -bail -cmd '.timeout 60000' {path} \"INSERT INTO t (text) VALUES ('more')\""
    writers = " & ".join(f"(for n in 1 2 3 4 5; do {add}; done)" for _ in range(2))
    box.sh(f"{writers} & wait")
    assert sql(box, path, "PRAGMA integrity_check; SELECT count(*) FROM t") == f"ok\n{ROWS + 10}"
    told = sql(box, path, "SELECT n, text FROM t ORDER BY n")
    with sqlite3.connect(host) as database:
        assert "\n".join(f"{n}|{text}" for n, text in database.execute("SELECT n, text FROM t ORDER BY n")) == told
    database.close()


def test_sqlite_on_both_sides(box: Toolbox, share: str, export: Path) -> None:
    path, host = f"{share}/both.db", export / "both.db"
    sql(box, path, "CREATE TABLE t (n INTEGER)")
    waiting = ".shell echo held > held; read -r line < free"
    box.sh(
        f"cd {OWN}; rm -f held free; mkfifo held free\n"
        f"printf '%s\\n' 'BEGIN EXCLUSIVE;' 'INSERT INTO t VALUES (1);' '{waiting}' 'COMMIT;'"
        f" | sqlite3 -batch -bail {path} & read -r line < held"
    )
    database = sqlite3.connect(host, timeout=0, isolation_level=None)
    try:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            database.execute("BEGIN IMMEDIATE")
        box.sh(f"echo go > {OWN}/free")
        database.execute("PRAGMA busy_timeout = 30000")
        database.execute("BEGIN IMMEDIATE")
        status, said = box.guest.attempt(box.command("sqlite3", "-batch", path, "BEGIN IMMEDIATE"))
        assert status
        assert "locked" in said
        database.execute("INSERT INTO t VALUES (2)")
        database.execute("COMMIT")
        assert sql(box, path, "SELECT n FROM t ORDER BY n") == "1\n2"
    finally:
        database.close()


def test_git(box: Toolbox, share: str, export: Path) -> None:
    """A repository of the host's is worked on in the guest, packed and cloned; both sides find all of it in order."""
    top = export / "repository"
    as_host = ("git", "-c", "user.name=host", "-c", "user.email=host@localhost")
    for part in ("a", "b"):
        (top / part).mkdir(parents=True)
        for n in range(5):
            (top / part / str(n)).write_text(f"{part} {n}\n")
    os.symlink("a/2", top / "symlink")
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "first"]):
        run(*as_host, *words, cwd=top)
    box.sh(
        f"""
        git() {{ command git -c user.name=guest -c user.email=guest@localhost "$@"; }}
        cd {share}/repository
        git mv a moved; rm b/3; echo changed >> b/4; chmod +x b/1; git add -A; git commit -qm second
        git repack -qad; git clone -q . ../clone
        """
    )
    for name in ("repository", "clone"):
        safe = ("git", "-c", f"safe.directory={export / name}", "-C", export / name)
        assert run(*safe, "fsck", "--strict", "--no-progress").stderr == ""
        assert run(*safe, "status", "--porcelain").stdout == ""
        assert run(*safe, "log", "--format=%s %an").stdout == "second guest\nfirst host\n"
        assert box.sh(f"git -C {share}/{name} status --porcelain") == ""  # after the host has written the index
