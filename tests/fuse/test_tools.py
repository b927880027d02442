"""Tools that people use on disks: they end with the same trees, and without complaint."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import needs
from ..support.describe import describe_tree
from ..support.house import PARTS, House, Pair, differences
from ..support.process import ALICE, Child, attempt, call_as, run
from ..support.stage import Stage

GIT = (
    "git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main",
    "-c", "safe.directory=*",
)  # fmt: skip


def populate(top: Path) -> None:
    """Files of every kind that a copy has to keep."""
    (top / "d" / "sub").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "plain").write_bytes(os.urandom(10_000))
    (top / "d" / "script").write_text("#!/bin/sh\n")
    (top / "d" / "script").chmod(0o755)
    (top / "d" / "secret").write_text("secret")
    (top / "d" / "secret").chmod(0o400)
    os.chown(top / "d" / "secret", ALICE.uid, ALICE.gid)
    os.link(top / "plain", top / "d" / "hard")
    os.link(top / "plain", top / "d" / "sub" / "harder")
    os.symlink("../plain", top / "d" / "link")
    os.symlink("nowhere", top / "dangling")
    os.mkfifo(top / "fifo")
    with open(top / "sparse", "wb") as file:
        file.truncate(5 << 20)
        file.seek(3 << 20)
        file.write(b"middle")
    (top / os.fsdecode(b"not \xff text")).write_text("bytes")
    (top / "old").write_text("old")
    os.utime(top / "old", ns=(-5_000_000_001, -5_000_000_001))
    os.setxattr(top / "plain", "user.comment", b"kept")
    run("setfacl", "-m", f"u:{ALICE.uid}:r", top / "plain")
    run("setfacl", "-m", f"d:u:{ALICE.uid}:rwx", top / "empty")
    (top / "d").chmod(0o2750)
    for n, path in enumerate(sorted(top.rglob("*"), reverse=True)):  # rsync takes a difference below a second for none
        if path.name != "old":
            os.utime(path, ns=(1, 1_234_567_890_123_456_789 + n), follow_symlinks=False)


@pytest.fixture
def original(pair: Pair) -> Path:
    """A tree on the twin, a plain disk."""
    needs.tools("setfacl")
    top = pair.twin / "original"
    top.mkdir()
    populate(top)
    return top


@pytest.mark.parametrize("way", ["cp -a", "rsync -aHAX", "tar"])
@pytest.mark.parametrize("direction", ["in", "out", "within"])
def test_copies_are_the_same_tree(pair: Pair, original: Path, way: str, direction: str) -> None:
    needs.tools("rsync", "tar")
    source, target = original, pair.seen / "copy"
    if direction != "in":
        run("cp", "-a", original, pair.host / "original")
        source = pair.seen / "original"
    if direction == "out":
        target = pair.twin / "copy"
    if way == "cp -a":
        run("cp", "-a", "--sparse=always", source, target)
    elif way == "tar":
        flags = ["--xattrs", "--acls", "--xattrs-include=*", "--sparse", "--format=posix"]
        archive = pair.twin / "archive.tar"
        done = run("tar", "-C", source, *flags, "-cf", archive, ".")
        assert "socket ignored" not in done.stderr
        target.mkdir()
        run("tar", "-C", target, *flags, "-xpf", archive)
        assert attempt("tar", "-C", source, *flags, "-df", archive).stdout == ""
    else:
        run("rsync", "-aHAX", "--numeric-ids", "--sparse", f"{source}/", target)
        again = run("rsync", "-aHAXi", "--numeric-ids", "--checksum", f"{source}/", target)
        assert again.stdout == "", "a second run found something to do"
    assert list(differences(describe_tree(target), describe_tree(original))) == []
    assert os.stat(target / "sparse").st_blocks <= os.stat(original / "sparse").st_blocks + 16


def test_du_counts_hard_links_once_across_devices(house: House) -> None:
    for part in ("", *PARTS):
        pair = house.pair("du", part)
        (pair.host / "f").write_bytes(os.urandom(100_000))
        os.link(pair.host / "f", pair.host / "g")
        (pair.host / "d").mkdir()
        for options in (["-s"], ["-sb"], ["-s", "--inodes"], ["-sl"]):
            shown = run("du", *options, pair.seen).stdout.split()[0]
            assert shown == run("du", *options, pair.host).stdout.split()[0], (part, options)


def test_du_of_the_whole_tree_is_that_of_its_parts(house: House) -> None:
    for part in PARTS:
        pair = house.pair("whole", part)
        for n in range(5):
            (pair.host / f"f{n}").write_bytes(os.urandom(5000))
    files = run("find", house.source, "-type", "f", "-printf", "%D:%i %b\n").stdout.split("\n")
    expected = sum(int(line.split()[1]) for line in set(filter(None, files)))
    shown = run("find", house.mounted.path, "-type", "f", "-printf", "%D:%i %b\n").stdout.split("\n")
    assert sum(int(line.split()[1]) for line in set(filter(None, shown))) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ". -name *f*", ". -newer plain", ". -samefile plain", ". -type d -empty", ". -links +1", ". -size +1k",
        ". -perm -u+x", f". -user {ALICE.uid}", ". -inum 1", ". -depth", "-L .", ". -xtype l",
    ],
)  # fmt: skip
def test_find_finds_the_same(pair: Pair, original: Path, arguments: str) -> None:
    run("cp", "-a", original, pair.host / "copy")
    found = [
        sorted(run("find", *arguments.split(), cwd=top / "copy").stdout.split("\n")) for top in (pair.host, pair.seen)
    ]
    assert found[0] == found[1]


def test_rm_of_a_large_tree(pair: Pair) -> None:
    for d in range(30):
        (pair.host / "big" / f"d{d}" / "e").mkdir(parents=True)
        for f in range(100):
            (pair.host / "big" / f"d{d}" / "e" / f"{f}").touch()
    run("rm", "-r", pair.seen / "big")
    assert os.listdir(pair.host) == []


@pytest.mark.parametrize("part", ["ext4", "overlay"])
def test_git(house: House, part: str) -> None:
    needs.tools("git")
    pair = house.pair("git", part)
    top = pair.seen / "repository"
    env = {**os.environ, "HOME": str(pair.twin), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words: str | Path, cwd: Path = top) -> str:
        return run(*GIT, *words, cwd=cwd, env=env).stdout

    run(*GIT, "init", "-q", top, env=env)
    for n in range(40):
        (top / f"dir{n % 5}").mkdir(exist_ok=True)
        (top / f"dir{n % 5}" / f"file{n}").write_text(f"content {n}\n" * n)
    os.symlink("dir0/file0", top / "link")
    (top / "dir1/file1").chmod(0o755)
    git("add", "-A")
    git("commit", "-qm", "first")
    assert git("status", "--porcelain") == ""
    for n in range(5):
        (top / "dir0/file0").write_text(f"changed {n}")
        git("commit", "-qam", f"change {n}")
    git("checkout", "-qb", "other", "HEAD~3")
    (top / "new").write_text("new")
    git("add", "new")
    git("commit", "-qm", "on other")
    git("merge", "-q", "--no-edit", "main")
    git("gc", "-q", "--aggressive", "--prune=now")
    git("fsck", "--strict")
    assert git("status", "--porcelain") == ""
    git("clone", "-q", top, pair.seen / "clone", cwd=pair.seen)
    git("clone", "-q", "--no-hardlinks", top, pair.twin / "clone", cwd=pair.twin)
    assert git("status", "--porcelain", cwd=pair.seen / "clone") == ""
    places = (top, pair.seen / "clone", pair.twin / "clone", pair.host / "repository")
    told = [git("ls-tree", "-r", "HEAD", cwd=where) for where in places]
    assert len(set(told)) == 1
    # stat information that the kernel gave earlier must still hold, or git reads every file again
    assert git("diff-files", "--stat") == ""
    assert git("log", "--oneline").count("\n") == 8


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_sqlite(pair: Pair, mode: str) -> None:
    """Several processes write one database; afterwards it is sound, and every row is there."""
    path = pair.seen / "data.db"
    with sqlite3.connect(path) as database:
        assert database.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
        database.execute("create table t (writer int, n int, filler blob)")
    database.close()
    rows = 60

    def writer(me: int) -> None:
        connection = sqlite3.connect(path, timeout=50, isolation_level=None)
        for n in range(rows):
            connection.execute("begin immediate")
            connection.execute("insert into t values (?, ?, ?)", (me, n, os.urandom(3000)))
            if n % 7 == 3:
                connection.execute("rollback")
                connection.execute("insert into t values (?, ?, ?)", (me, n, b"after a rollback"))
            else:
                connection.execute("commit")
        connection.close()

    children = [Child(lambda me=me: writer(me)) for me in range(3)]  # type: ignore[misc]
    for child in children:
        child.result(timeout=100)
    for where in (path, pair.host / "data.db"):
        connection = sqlite3.connect(where)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        found = connection.execute("select writer, n from t order by writer, n").fetchall()
        connection.close()
        assert found == [(me, n) for me in range(3) for n in range(rows)]


def test_an_sqlite_writer_killed_in_a_transaction_leaves_a_sound_database(pair: Pair) -> None:
    path = pair.seen / "data.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("create table t (n int, filler blob)")
    connection.execute("insert into t values (1, '')")
    connection.close()

    def dies() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("pragma cache_size=5")  # so that pages are written before the commit
        connection.execute("begin immediate")
        for n in range(300):
            connection.execute("insert into t values (?, ?)", (n, os.urandom(2000)))
        os.kill(os.getpid(), 9)

    with pytest.raises(RuntimeError):
        Child(dies).result()
    assert (pair.host / "data.db-journal").exists()
    connection = sqlite3.connect(path)
    assert connection.execute("select n from t").fetchall() == [(1,)]
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


def test_an_editor_saves_by_renaming(pair: Pair) -> None:
    """Writes a new file, gives it the old one's mode and attributes, renames it into place, again and again."""

    def save(path: Path) -> None:
        (path / "text").write_text("version 0")
        (path / "text").chmod(0o640)
        os.setxattr(path / "text", "user.encoding", b"utf-8")
        for n in range(1, 50):
            old = path / "text"
            with open(path / ".text.new", "x") as file:
                file.write(f"version {n}")
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), stat.S_IMODE(old.stat().st_mode))
                os.setxattr(file.fileno(), "user.encoding", os.getxattr(old, "user.encoding"))
            os.link(old, path / "text~.tmp")
            os.replace(path / "text~.tmp", path / "text~")
            os.replace(path / ".text.new", old)
            directory = os.open(path, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
            assert old.read_text() == f"version {n}"
            assert (path / "text~").read_text() == f"version {n - 1}"
            assert sorted(os.listdir(path)) == ["text", "text~"]

    call_as(ALICE, lambda: save(pair.seen))
    call_as(ALICE, lambda: save(pair.twin))
    assert describe_tree(pair.host, times=False) == describe_tree(pair.twin, times=False)


def test_a_compiler_and_make(pair: Pair) -> None:
    needs.tools("make", "cc")
    for name in "abc":
        (pair.seen / f"{name}.c").write_text(f"int {name}(void) {{ return {ord(name)}; }}\n")
    main = "int a(void), b(void), c(void);\nint main(void) { return a() + b() + c() != 294; }\n"
    (pair.seen / "main.c").write_text(main)
    (pair.seen / "Makefile").write_text("program: main.o a.o b.o c.o\n\t$(CC) -o $@ $^\n")
    run("make", "-j4", cwd=pair.seen)
    run(pair.seen / "program")
    assert "up to date" in run("make", cwd=pair.seen).stdout
    os.utime(pair.seen / "a.c")
    assert "a.o" in run("make", cwd=pair.seen).stdout


@pytest.fixture
def stacked(stage: Stage) -> Iterator[Path]:
    """A fusemap mount of a fusemap mount."""
    disk = stage.ext4("disk")
    (disk / "f").write_text("f")
    inner = stage.fusemap(disk, at="inner")
    yield stage.fusemap(inner.path, at="outer").path


def test_a_mount_can_be_shown_by_another(stacked: Path) -> None:
    assert (stacked / "f").read_text() == "f"
    (stacked / "d").mkdir()
    (stacked / "d" / "g").write_text("g")
    os.rename(stacked / "d" / "g", stacked / "h")
    os.link(stacked / "h", stacked / "i")
    assert sorted(os.listdir(stacked)) == ["d", "f", "h", "i", "lost+found"]
    assert (stacked / "i").stat().st_nlink == 2
    run("find", stacked, "-printf", "%i %s")


def test_an_overlay_on_top_of_a_mount(stage: Stage) -> None:
    """A file system that itself asks for handles, attributes and whiteouts."""
    needs.file_system("overlay")
    lower = stage.ext4("lower")
    (lower / "f").write_text("lower")
    (lower / "d").mkdir()
    (lower / "d" / "gone").write_text("x")
    seen = stage.fusemap(lower).path
    upper = stage.tmpfs("upper")
    (upper / "data").mkdir()
    (upper / "work").mkdir()
    merged = stage.mount(
        "overlay", "merged", "-t", "overlay", "-o", f"lowerdir={seen},upperdir={upper}/data,workdir={upper}/work"
    )
    assert (merged / "f").read_text() == "lower"
    (merged / "f").write_text("upper")
    run("rm", "-r", merged / "d")
    assert sorted(os.listdir(merged)) == ["f", "lost+found"]
    assert (lower / "f").read_text() == "lower"
