"""Random calls against a model: a byte array for one file, a plain disk for a tree of them."""

from __future__ import annotations

import mmap
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusemap.host.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, Calls

from ..support.describe import describe_tree
from ..support.house import Pair, same, tried
from ..support.process import ALICE, BOB

PAGE = mmap.PAGESIZE


def put(path: Path, data: bytes = b"", mode: int = 0o666) -> int:
    """A new file, open for reading and writing."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    os.write(fd, data)
    return fd


def rename2(old: Path | str, new: Path | str, flags: int) -> None:
    """renameat2(2)."""
    Calls().rename(-100, os.fsencode(old), -100, os.fsencode(new), flags)


@pytest.mark.parametrize("seed", range(4))
def test_random_reads_and_writes_of_one_file(pair: Pair, seed: int) -> None:
    """Random writes, truncations, mappings and reads by several descriptors: what a byte array says is what is read."""
    rng = random.Random(seed)
    limit = 300_000
    model = bytearray()
    path = pair.seen / "f"
    fds = [put(path), os.open(path, os.O_RDWR), os.open(path, os.O_RDWR | os.O_APPEND)]
    try:
        for step in range(600):
            fd = rng.choice(fds)
            at, size = rng.randrange(limit), rng.choice([1, 100, PAGE, 20_000, 130_000])
            act = rng.choice(["write", "write", "read", "read", "truncate", "map", "reopen", "stat", "sync"])
            if act == "write":
                data = rng.randbytes(size)
                if fd == fds[2]:
                    if len(model) > 2 * limit:
                        continue
                    assert os.write(fd, data) == size
                    at = len(model)
                else:
                    assert os.pwrite(fd, data, at) == size
                if at > len(model):
                    model.extend(bytes(at - len(model)))
                model[at : at + size] = data
            elif act == "read":
                assert os.pread(fd, size, at) == model[at : at + size], (seed, step)
            elif act == "truncate":
                where: int | Path = path if rng.random() < 0.5 else fds[0]
                os.truncate(where, at)
                del model[at:]
                model.extend(bytes(at - len(model)))
            elif act == "map" and model:
                with mmap.mmap(fds[0], len(model)) as memory:
                    assert memory[at : at + size] == model[at : at + size], (seed, step)
                    here = rng.randrange(len(model))
                    data = rng.randbytes(min(size, len(model) - here))
                    memory[here : here + len(data)] = data
                    model[here : here + len(data)] = data
            elif act == "reopen":
                os.close(fds[1])
                fds[1] = os.open(path, os.O_RDWR)
            elif act == "stat":
                assert os.fstat(fd).st_size == os.stat(path).st_size == len(model), (seed, step)
            elif act == "sync":
                os.fsync(fd)
    finally:
        for fd in fds:
            os.close(fd)
    assert (pair.host / "f").read_bytes() == path.read_bytes() == model


ACTS = [
    "create", "create", "mkdir", "mkdir", "unlink", "rmdir", "rename", "rename", "exchange", "noreplace", "link",
    "symlink", "mkfifo", "chmod", "chown", "chgrp", "truncate", "append", "read", "list", "stat", "utime", "xattr",
    "readlink", "access",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_random_changes_by_several_users_end_alike(pair: Pair, seed: int) -> None:
    """A thousand random calls on a disk and on the mount: every one with the same result, and one tree at the end."""

    def calls(rng: random.Random) -> list[Callable[[Path], Any]]:
        names = ["a", "b", "c", "a/x", "b/x", "c/x", "a/x/y", "b/x/y", "a/l", "c/l"]

        def one() -> Callable[[Path], Any]:
            act = rng.choice(ACTS)
            one, two = rng.choice(names), rng.choice(names)
            mode = rng.choice([0o777, 0o755, 0o700, 0o1777, 0o2775, 0o644, 0o600, 0o444, 0])
            return {
                "create": lambda p: os.close(os.open(p / one, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)),
                "mkdir": lambda p: os.mkdir(p / one, mode | 0o700),
                "unlink": lambda p: os.unlink(p / one),
                "rmdir": lambda p: os.rmdir(p / one),
                "rename": lambda p: os.rename(p / one, p / two),
                "exchange": lambda p: rename2(p / one, p / two, RENAME_EXCHANGE),
                "noreplace": lambda p: rename2(p / one, p / two, RENAME_NOREPLACE),
                "link": lambda p: os.link(p / one, p / two, follow_symlinks=False),
                "symlink": lambda p: os.symlink(two, p / one),
                "mkfifo": lambda p: os.mkfifo(p / one, mode),
                "chmod": lambda p: os.chmod(p / one, mode),
                "chown": lambda p: os.chown(p / one, rng.choice([ALICE, BOB]).uid, -1, follow_symlinks=False),
                "chgrp": lambda p: os.chown(p / one, -1, rng.choice([61001, 61002, 62000]), follow_symlinks=False),
                "truncate": lambda p: os.truncate(p / one, 10) if stat.S_ISREG(os.stat(p / one).st_mode) else None,
                "append": lambda p: _append(p / one),
                "read": lambda p: _read(p / one),
                "list": lambda p: sorted(os.listdir(p / one)),
                "stat": lambda p: _stat(p / one),
                "utime": lambda p: os.utime(p / one, ns=(7, 8), follow_symlinks=False),
                "xattr": lambda p: os.setxattr(p / one, "user.a", b"1", follow_symlinks=False),
                "readlink": lambda p: os.readlink(p / one),
                "access": lambda p: [os.access(p / one, how) for how in (os.R_OK, os.W_OK, os.X_OK)],
            }[act]

        return [one() for _ in range(250)]

    for round, user in enumerate((ALICE, BOB, None, ALICE)):

        def work(path: Path, round: int = round) -> list[Any]:
            rng = random.Random(f"{seed} {round}")
            return [tried(lambda: act(path)) for act in calls(rng)]

        told = same(pair, work, user)
        assert isinstance(told, list)
        if not round:
            assert sum(isinstance(result, str) for result in told) < 225, "hardly anything was possible"
    assert describe_tree(pair.seen, times=False) == describe_tree(pair.host, times=False)
    assert describe_tree(pair.host, times=False) == describe_tree(pair.twin, times=False)


def _append(path: Path) -> int:
    if not stat.S_ISREG(os.stat(path).st_mode):
        return 0
    with open(path, "ab") as file:
        return file.write(b"more")


def _read(path: Path) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):
        return b""
    return path.read_bytes()


def _stat(path: Path) -> dict[str, Any]:
    st = os.lstat(path)
    size = st.st_size if stat.S_ISREG(st.st_mode) else 0
    return {"mode": oct(st.st_mode), "owner": (st.st_uid, st.st_gid), "nlink": st.st_nlink, "size": size}
