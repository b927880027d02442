"""Numbers that last, at full size: two hundred devices, twenty thousand files, through real mounts."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from ..support import needs
from ..support.process import attempt, run
from ..support.stage import FUSEMAP, Stage

DEVICES = 200
FILES = 100  # on each


def test_numbers_of_two_hundred_devices_last(stage: Stage) -> None:
    """Restarted, and restarted after everything was mounted in another order, with another st_dev for each."""
    needs.fuse()
    image = stage.image("btrfs", 256)
    top = stage.mount(image, "top", "-o", "loop")
    names = [f"{n:03d}" for n in range(DEVICES)]
    for name in names:
        run("btrfs", "subvolume", "create", top / name)
        for n in range(FILES):
            (top / name / str(n)).touch()
    run("umount", top)
    source = stage.ext4("src")
    numbers = stage.path / "numbers.json"

    def mount(order: list[str]) -> dict[str, int]:
        for name in order:
            stage.mount(image, source / name, "-o", f"loop,subvol={name}")
        return {name: os.stat(source / name).st_dev for name in names}

    def check(option: str) -> dict[str, object]:
        mounted = stage.fusemap(source)
        result = attempt(*FUSEMAP, "check", mounted.path, option, numbers, "--json")
        assert result.returncode == 0, result.stdout + result.stderr
        assert mounted.unmount() == 0
        found: dict[str, object] = json.loads(result.stdout)
        return found

    before = mount(names)
    check("--save")
    saved = json.loads(numbers.read_bytes())
    assert len(saved["numbers"]) >= DEVICES * (FILES + 1)
    same = check("--against")
    for name in names:
        run("umount", source / name)
    other = names[:]
    random.Random(1).shuffle(other)
    assert mount(other) != before, "the host dealt out the same device numbers"
    assert check("--against") == same
    assert (same["new"], same["gone"], same["unreadable"]) == (0, 0, [])
    check("--save")
    assert json.loads(numbers.read_bytes()) == saved


def test_two_hundred_devices_that_are_known_by_name(stage: Stage) -> None:
    """tmpfs has no identity; with names it has one, and a new tmpfs of that name has the numbers of the old."""
    needs.fuse()
    source = stage.ext4("src")
    names = [f"{n:03d}" for n in range(DEVICES)]
    options = [word for name in names for word in ("--name", f"{source / name}=disk-{name}")]

    def fill(path: Path) -> None:
        for n in range(10):
            (path / str(n)).touch()

    def numbers(order: list[str]) -> dict[str, int]:
        for name in order:
            fill(stage.mount("tmpfs", source / name, "-t", "tmpfs", "-o", "size=1m"))
        mounted = stage.fusemap(source, *options)
        found = {
            f"{name}/{n}": os.stat(mounted / name / str(n)).st_ino for name in reversed(names) for n in range(10)
        }
        assert mounted.unmount() == 0
        for name in order:
            run("umount", source / name)
        return found

    first = numbers(names)
    assert len(set(first.values())) == len(first)
    assert numbers(names[::-1]) == first


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_writing_to_a_file_of_an_overlays_lower_layer(stage: Stage, cache: str) -> None:
    """It is copied to the upper layer by that, and stays the same file for whoever has it open, and with its number."""
    needs.fuse()
    source = stage.overlay("src")
    mounted = stage.fusemap(source, "--cache", cache)
    path = mounted / "from-0"
    before = path.stat()
    with open(path) as held, open(path, "r+") as file:
        file.write("LAYER")
        file.flush()
        assert held.read() == "LAYER 0"
        assert os.fstat(file.fileno()).st_ino == before.st_ino
        path.chmod(0o600)
        assert os.fstat(held.fileno()).st_mode == path.stat().st_mode
    assert path.read_text() == "LAYER 0"
    assert path.stat().st_ino == before.st_ino
    os.rename(path, mounted / "renamed")
    assert (mounted / "renamed").read_text() == "LAYER 0"
    assert (mounted / "renamed").stat().st_ino == before.st_ino
    assert mounted.unmount() == 0
    assert "to another file" not in mounted.log()
