"""The three cache modes, and a host that changes the tree behind the clients' back."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fusemap.tree.live import SETTLED_NS

from ..support.process import Child
from ..support.stage import Mounted, Stage, drop_caches

TIMEOUT = 1.0  # what "auto" promises


class Modes(NamedTuple):
    """One ext4 mounted three times."""

    host: Path
    none: Mounted
    auto: Mounted
    always: Mounted


@pytest.fixture(scope="module")
def modes() -> Iterator[Modes]:
    from ..support import needs

    needs.fuse()
    stage = Stage()
    try:
        host = stage.ext4("src")
        mounts = [stage.fusemap(host, "--cache", name, at=name) for name in ("none", "auto", "always")]
        yield Modes(host, *mounts)
    finally:
        stage.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name of its own for each test."""
    return "f-" + str(request.node.name).replace("/", "-")[:100]


def eventually(what: Callable[[], Any], expected: Any, seconds: float = TIMEOUT + 0.5) -> None:
    """`what` comes to `expected` in time, and is not something third meanwhile."""
    first, end = what(), time.monotonic() + seconds
    while (now := what()) != expected:
        assert now == first
        assert time.monotonic() < end, f"{now!r} after {seconds} s, not {expected!r}"
        time.sleep(0.02)


def test_none_shows_every_change_of_the_host_at_once(modes: Modes, name: str) -> None:
    host, seen = modes.host / name, modes.none / name
    assert not seen.exists()
    host.write_text("one")
    assert seen.read_text() == "one"
    fd = os.open(seen, os.O_RDWR)
    try:
        for text in ("longer", "s", "", "again"):
            host.write_text(text)
            assert os.pread(fd, 100, 0) == text.encode()
            assert os.fstat(fd).st_size == os.stat(seen).st_size == len(text)
        host.chmod(0o600)
        assert os.stat(seen).st_mode & 0o777 == 0o600
        os.link(host, host.with_name(name + "2"))
        assert os.stat(seen).st_nlink == 2
        os.unlink(host)
        assert not seen.exists()
        assert os.fstat(fd).st_nlink == 1
    finally:
        os.close(fd)
    (modes.host / f"{name}d").mkdir()
    assert (modes.none / f"{name}d").is_dir()
    (modes.host / f"{name}d").rmdir()
    host.write_text("a file where nothing was")
    assert seen.read_text() == "a file where nothing was"


@pytest.mark.parametrize("how", ["longer", "shorter", "same length", "same length and time", "replaced"])
@pytest.mark.parametrize("knows", ["stat", "read", "both", "open"])
@pytest.mark.parametrize("mode", ["none", "auto"])
def test_opening_shows_what_the_host_has_written(modes: Modes, name: str, mode: str, knows: str, how: str) -> None:
    """Close-to-open: whatever a client knew, an open(2) after the host's close(2) reads all of the host's data."""
    host, seen = modes.host / name, getattr(modes, mode) / name
    host.write_text("first text")
    held = None
    if knows in ("stat", "both"):
        assert seen.stat().st_size == 10
    if knows in ("read", "both", "open"):
        assert seen.read_text() == "first text"
    if knows == "open":
        held = os.open(seen, os.O_RDONLY)
    after = {
        "longer": "a much longer text than before",
        "shorter": "short",
        "same length": "other text",
        "same length and time": "text other",
        "replaced": "a new file",
    }[how]
    if how == "replaced":
        host.with_name("new").write_text(after)
        os.rename(host.with_name("new"), host)
        if mode == "auto":  # the name itself may be remembered for a second
            eventually(seen.read_text, after)
    else:
        before = host.stat()
        host.write_text(after)
        if how == "same length and time":  # as tar and cp -p do it: only ctime tells
            os.utime(host, ns=(before.st_atime_ns, before.st_mtime_ns))
    try:
        fd = os.open(seen, os.O_RDONLY)
        try:
            assert os.read(fd, 100) == after.encode()
            assert os.fstat(fd).st_size == len(after)
            with mmap.mmap(fd, 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as memory:
                assert memory[:] == after.encode()
        finally:
            os.close(fd)
    finally:
        if held is not None:
            os.close(held)


def test_auto_shows_changes_of_names_and_attributes_within_a_second(modes: Modes, name: str) -> None:
    host, seen = modes.host / name, modes.auto / name
    host.write_text("x")
    host.chmod(0o640)
    assert os.stat(seen).st_mode & 0o777 == 0o640
    host.chmod(0o600)
    eventually(lambda: os.stat(seen).st_mode & 0o777, 0o600)
    os.rename(host, modes.host / f"{name}-moved")
    eventually(seen.exists, False)
    assert (modes.auto / f"{name}-moved").read_text() == "x"


def test_auto_shows_what_was_not_there_before_at_once(modes: Modes, name: str) -> None:
    assert not (modes.auto / name).exists()
    (modes.host / name).write_text("new")
    assert (modes.auto / name).read_text() == "new", "that a name is missing is remembered"


def test_an_open_file_follows_the_host_within_a_second(modes: Modes, name: str) -> None:
    """tail -f of a log that the host writes."""
    (modes.host / name).write_bytes(b"one\n")
    with open(modes.auto / name, "rb", buffering=0) as file:
        assert file.read(100) == b"one\n"
        assert file.read(100) == b""
        with open(modes.host / name, "ab") as log:
            log.write(b"two\n")
        found = b""

        def more() -> bytes:
            nonlocal found
            os.fstat(file.fileno())
            found += file.read(100)
            return found

        eventually(more, b"two\n")


def served(mounted: Mounted, work: Callable[[], Any]) -> int:
    """How many bytes the server reads from files while `work` runs (proc_pid_io(5))."""

    def so_far() -> int:
        with open(f"/proc/{mounted.pid}/io") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("rchar"))

    before = so_far()
    work()
    return so_far() - before


SIZE = 4 << 20


def settles(path: Path) -> None:
    """Waits until the file's last change is so long ago that another one would have another time stamp."""
    while time.time_ns() <= os.stat(path).st_ctime_ns + SETTLED_NS:
        time.sleep(0.05)


@pytest.mark.parametrize(("mode", "kept"), [("none", False), ("auto", True), ("always", True)])
def test_unchanged_data_is_kept_or_not(modes: Modes, name: str, mode: str, kept: bool) -> None:
    mounted: Mounted = getattr(modes, mode)
    (modes.host / name).write_bytes(os.urandom(SIZE))
    path = mounted.path / name
    settles(modes.host / name)
    assert served(mounted, path.read_bytes) >= SIZE
    again = served(mounted, path.read_bytes)
    assert (again < SIZE // 4) == kept
    if mode == "auto":
        data = os.urandom(SIZE)
        (modes.host / name).write_bytes(data)
        assert path.read_bytes() == data
        (modes.host / name).write_bytes(data[::-1])
        assert path.read_bytes() == data[::-1]


def test_always_does_not_ask_again(modes: Modes, name: str) -> None:
    (modes.host / name).write_text("x")
    path = modes.always / name
    assert path.read_text() == "x"
    seen = os.stat(path)
    (modes.host / name).write_text("changed by the host, which this mode may ignore")
    time.sleep(TIMEOUT + 0.1)
    assert os.stat(path) == seen
    drop_caches()
    assert path.read_text() == "changed by the host, which this mode may ignore"


def test_always_shows_the_clients_own_changes(modes: Modes, name: str) -> None:
    top = modes.always / name
    top.mkdir()
    for text in ("a", "bb", "", "cccc"):
        (top / "f").write_text(text)
        assert (top / "f").read_text() == text
        assert (top / "f").stat().st_size == len(text)
        os.rename(top / "f", top / "g")
        assert not (top / "f").exists()
        os.link(top / "g", top / "h")
        assert (top / "g").stat().st_nlink == 2
        os.unlink(top / "h")
        assert (top / "g").stat().st_nlink == 1
        os.unlink(top / "g")
        assert os.listdir(top) == []
        st = top.stat()
        assert st.st_mtime_ns == (modes.host / name).stat().st_mtime_ns


@pytest.mark.parametrize("mode", ["none", "auto", "always"])
def test_two_clients_see_each_others_writes(modes: Modes, name: str, mode: str) -> None:
    path = getattr(modes, mode) / name
    path.write_bytes(b"0")
    mine = os.open(path, os.O_RDWR)
    try:
        for n in range(1, 20):

            def theirs(n: int = n) -> bytes:
                fd = os.open(path, os.O_RDWR)
                before = os.pread(fd, 100, 0)
                os.pwrite(fd, b"%d" % n, 0)
                os.close(fd)
                return before

            assert Child(theirs).result() == b"%d" % (n - 1)
            assert os.pread(mine, 100, 0) == b"%d" % n
            assert (modes.host / name).read_bytes() == b"%d" % n
    finally:
        os.close(mine)


def test_shared_mappings_in_mode_auto_and_always(modes: Modes, name: str) -> None:
    for mounted in (modes.auto, modes.always):
        path = mounted.path / f"{name}-{mounted.path.name}"
        path.write_bytes(bytes(8192))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[5000:5004] = b"data"
            memory.flush()
            assert (modes.host / path.name).read_bytes()[5000:5004] == b"data"


def test_a_program_runs_from_a_mount_without_cache(modes: Modes, name: str) -> None:
    """Direct data must not make private mappings impossible: programs and libraries are run by them."""
    import shutil
    import subprocess

    shutil.copy(shutil.which("true") or "/bin/true", modes.host / name)
    assert subprocess.run([modes.none / name], timeout=30, check=False).returncode == 0


def test_a_disk_that_keeps_whole_seconds(stage: Stage) -> None:
    """A file that is written twice within a second has the same times then; what was read between is not kept."""
    host = stage.ext4("src", 16, "-I", "128")
    mounted = stage.fusemap(host)
    with open(host / "f", "wb", buffering=0) as file:
        while True:
            begun = int(time.time())
            os.pwrite(file.fileno(), b"first", 0)
            time.sleep(2 * SETTLED_NS / 1e9)
            assert [(mounted / "f").read_bytes() for _ in range(2)] == [b"first"] * 2
            os.pwrite(file.fileno(), b"other", 0)
            if int(time.time()) == begun:
                break
        assert os.stat(host / "f").st_mtime_ns == begun * 1_000_000_000
    assert [(mounted / "f").read_bytes() for _ in range(2)] == [b"other"] * 2
