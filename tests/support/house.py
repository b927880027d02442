"""A tree of several file systems under one mount, and the comparison of what it does with what a plain disk does."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from .process import SECONDS, User, call_as, run
from .stage import Stage

T = TypeVar("T")

# Where in the house each file system is, the root being an ext4 itself
PARTS: Final = ("ext4", "xfs", "subvol-a", "subvol-b", "tmpfs", "overlay")


class House:
    """ext4 at the root; below it ext4, xfs, two btrfs subvolumes, tmpfs and overlay; mounted with `options`."""

    def __init__(self, stage: Stage, *options: str) -> None:
        self.stage = stage
        self.source = stage.ext4("house")
        build_parts(stage, self.source)
        self.twin = stage.ext4("twin")  # as the house's root, but not shown by any mount
        self.mounted = stage.fusemap(self.source, *options)
        self._pairs = 0

    def pair(self, name: str, part: str = "") -> Pair:
        """A new directory that everybody may write to, on `part` of the house and on the twin."""
        self._pairs += 1
        name = f"{self._pairs}-" + re.sub(r"[^A-Za-z0-9_]", "-", name)[:60]
        for top in (self.source / part, self.twin):
            (top / name).mkdir()
            (top / name).chmod(0o777)
        return Pair(self.source / part / name, self.mounted.path / part / name, self.twin / name)


class Pair(NamedTuple):
    """One directory on the host, the same as the mount `seen` shows it, and an empty `twin` on a plain ext4."""

    host: Path
    seen: Path
    twin: Path


def build_parts(stage: Stage, source: Path) -> None:
    """Mounts one file system of each kind below `source`."""
    stage.ext4(source / "ext4")
    stage.disk("xfs", source / "xfs")
    image = stage.image("btrfs")
    top = stage.mount(image, stage.path / "btrfs-top", "-o", "loop")
    for name in ("subvol-a", "subvol-b"):
        run("btrfs", "subvolume", "create", top / name)
    device = run("findmnt", "-no", "SOURCE", top).stdout.split("[")[0].strip()
    for name in ("subvol-a", "subvol-b"):
        stage.mount(device, source / name, "-o", f"subvol={name}")
    stage.tmpfs(source / "tmpfs")
    stage.overlay(source / "overlay")


class Failed(NamedTuple):
    """A call that ended with an error."""

    errno: str

    def __repr__(self) -> str:
        return f"Failed({self.errno})"


def errno_name(error: OSError) -> str:
    """The name of the error, such as "ENOENT"."""
    return errno.errorcode.get(error.errno or 0, str(error))


def tried(function: Callable[[], Any]) -> Any:
    """What the call returns, or the name of the error with which it fails."""
    try:
        return function()
    except OSError as error:
        return errno_name(error)


def outcome(function: Callable[[], T]) -> T | Failed:
    """What the call returns, or how it failed."""
    try:
        return function()
    except OSError as error:
        return Failed(errno_name(error))


def same(pair: Pair, function: Callable[[Path], T], user: User | None = None, timeout: float = SECONDS) -> T | Failed:
    """Calls `function` on the plain directory and on the mount, as `user` in a child; both must come to the same.

    Returns what it came to.
    """

    def both(path: Path) -> Any:
        def call() -> Any:
            os.chdir(path)  # so that a test may use relative names
            return outcome(lambda: function(path))

        return call_as(user, call, timeout)

    plain, shown = both(pair.twin), both(pair.seen)
    assert shown == plain, "\n".join(["the mount differs:", *differences(shown, plain)])
    return plain  # type: ignore[no-any-return]


def differences(shown: Any, plain: Any, where: str = "") -> Iterator[str]:
    """What is not the same in two nested values, one line each."""
    if isinstance(shown, dict) and isinstance(plain, dict):
        for key in [*plain, *(key for key in shown if key not in plain)]:
            yield from differences(shown.get(key, "nothing"), plain.get(key, "nothing"), f"{where}[{key!r}]")
    elif isinstance(shown, (list, tuple)) and isinstance(plain, (list, tuple)) and len(shown) == len(plain):
        for n, (one, two) in enumerate(zip(shown, plain, strict=True)):
            yield from differences(one, two, f"{where}[{n}]")
    elif shown != plain:
        yield f"{where or 'the result'}: {shown!r}, on the host {plain!r}"
