"""Many processes at once: what each one's model says is there is there, on the mount and on the host."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..support.describe import describe_tree
from ..support.house import House, Pair, tried
from ..support.process import Child, run

PROCESSES = 10
SECONDS = 18.0


ACTS = [
    "create", "create", "append", "rewrite", "rename", "over", "unlink", "link", "truncate", "read", "list", "mkdir",
    "fight",
]  # fmt: skip


def worker(top: Path, me: int, until: float) -> Callable[[], dict[str, bytes]]:
    """Writes, renames, links and deletes its own files among everybody's, and knows at the end which there are."""

    def work() -> dict[str, bytes]:
        rng = random.Random(me)
        model: dict[str, bytes] = {}
        directories = [f"d{n}" for n in range(4)]
        made = 0
        while time.monotonic() < until:
            act = rng.choice(ACTS)
            names = list(model)
            one = rng.choice(names) if names else ""
            new = f"{rng.choice(directories)}/p{me}-{made}"
            if act == "create" or not one:
                made += 1
                model[new] = rng.randbytes(rng.choice([0, 10, 5000, 70_000]))
                (top / new).write_bytes(model[new])
            elif act == "append":
                with open(top / one, "ab") as file:
                    file.write(b"more")
                model[one] += b"more"
            elif act == "rewrite":
                model[one] = rng.randbytes(3000)
                (top / one).write_bytes(model[one])
            elif act == "truncate":
                os.truncate(top / one, 100)
                model[one] = model[one][:100].ljust(100, b"\0")
            elif act == "rename":
                made += 1
                os.rename(top / one, top / new)
                model[new] = model.pop(one)
            elif act == "over":
                two = rng.choice(names)
                if one != two:
                    os.rename(top / one, top / two)
                    model[two] = model.pop(one)
            elif act == "unlink":
                os.unlink(top / one)
                del model[one]
            elif act == "link":  # and away again: the model knows one name of each file
                made += 1
                os.link(top / one, top / new)
                os.unlink(top / one)
                model[new] = model.pop(one)
            elif act == "read":
                assert (top / one).read_bytes() == model[one], one
                assert (top / one).stat().st_size == len(model[one]), one
            elif act == "list":
                directory = rng.choice(directories)
                listed = {name for name in os.listdir(top / directory) if name.startswith(f"p{me}-")}
                assert listed == {name.split("/")[1] for name in model if name.startswith(directory + "/")}
            elif act == "mkdir":
                made += 1
                os.mkdir(top / new)
                (top / new / "inside").touch()
                os.unlink(top / new / "inside")
                os.rmdir(top / new)
            else:  # everybody over the same names, where any outcome is right that a disk could have
                path = top / f"shared{rng.randrange(3)}"
                acts: list[Callable[[], object]] = [
                    path.unlink,
                    path.read_bytes,
                    lambda: path.write_bytes(b"x" * 1000),
                    lambda: path.rename(top / "shared0"),
                ]
                got = tried(rng.choice(acts))
                assert got == "ENOENT" or not isinstance(got, str), got
            if len(model) > 60:
                for name in names[:30]:
                    os.unlink(top / name)
                    del model[name]
        return model

    return work


@pytest.mark.parametrize("part", ["ext4", "overlay"])
def test_ten_processes_in_the_same_directories(house: House, part: str) -> None:
    pair = house.pair("busy", part)
    for n in range(4):
        (pair.host / f"d{n}").mkdir()
    seconds = SECONDS if part == "ext4" else SECONDS / 3
    until = time.monotonic() + seconds
    children = [Child(worker(pair.seen, n, until)) for n in range(PROCESSES)]
    expected: dict[str, bytes] = {}
    for child in children:
        expected.update(child.result(timeout=seconds + 60))
    house.mounted.check_log()
    for top in (pair.host, pair.seen):
        found = {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("p*") if path.is_file()}
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []
    assert describe_tree(pair.host) == describe_tree(pair.seen)
    run("rm", "-r", *pair.seen.iterdir())
    assert os.listdir(pair.host) == []


def test_directories_moved_about_under_walkers(pair: Pair) -> None:
    """Renames of directories while others walk through them: no hang, no wrong file, nothing lost."""
    until = time.monotonic() + 5
    for n in range(3):
        (pair.host / f"d{n}" / "sub" / "deep").mkdir(parents=True)
        (pair.host / f"d{n}" / "sub" / "deep" / "f").write_text(f"{n}")

    def mover(seed: int) -> Callable[[], int]:
        def work() -> int:
            rng = random.Random(seed)
            done = 0
            while time.monotonic() < until:
                one, two = rng.sample(["d0", "d1", "d2", "d0/sub", "d1/sub", "d2/sub", "d0/sub/x", "tmp"], 2)
                try:
                    os.rename(pair.seen / one, pair.seen / two)
                    done += 1
                except OSError as error:
                    assert error.errno in (errno.ENOENT, errno.EINVAL, errno.ENOTEMPTY, errno.EEXIST), error
            return done

        return work

    def walker() -> int:
        found = 0
        while time.monotonic() < until:
            for path, _, files in os.walk(pair.seen):
                for name in files:
                    try:
                        text = Path(path, name).read_text()
                    except OSError as error:
                        assert error.errno in (errno.ENOENT, errno.ENOTDIR), error
                    else:
                        assert text in ("0", "1", "2")
                        found += 1
        return found

    children = [Child(mover(n)) for n in range(3)] + [Child(walker) for _ in range(3)]
    assert all(child.result(timeout=60) for child in children)
    texts = sorted(path.read_text() for path in pair.host.rglob("f"))
    assert texts == ["0", "1", "2"]
    assert sorted(path.read_text() for path in pair.seen.rglob("f")) == texts


def test_exclusive_creation_has_one_winner(pair: Pair) -> None:
    rounds = 150

    def racer(me: int) -> Callable[[], list[int]]:
        def work() -> list[int]:
            won = []
            for n in range(rounds):
                try:
                    fd = os.open(pair.seen / f"lock{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                except FileExistsError:
                    continue
                os.write(fd, b"%d" % me)
                os.close(fd)
                won.append(n)
            return won

        return work

    children = [Child(racer(n)) for n in range(4)]
    won = [child.result() for child in children]
    assert sorted(n for winner in won for n in winner) == list(range(rounds))
    for me, winner in enumerate(won):
        assert {(pair.host / f"lock{n}").read_text() for n in winner} <= {str(me)}


@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_locks_exclude(pair: Pair, how: str) -> None:
    import fcntl

    (pair.seen / "counter").write_text("0")

    def work() -> None:
        lock = getattr(fcntl, how)
        for _ in range(100):
            with open(pair.seen / "counter", "r+") as file:
                lock(file, fcntl.LOCK_EX)
                value = int(file.read())
                file.seek(0)
                file.write(str(value + 1))
                file.flush()

    children = [Child(work) for _ in range(4)]
    for child in children:
        child.result()
    assert (pair.host / "counter").read_text() == "400"
