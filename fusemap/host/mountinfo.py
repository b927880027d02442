"""The mount table as /proc/self/mountinfo tells it (proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


class MountInfo(NamedTuple):
    """One mount: `root` is the part of the file system that is mounted, `point` where it is seen."""

    id: int
    device: str  # "major:minor" of the super block; for btrfs that of no subvolume
    root: bytes
    point: bytes
    read_only: bool
    kind: str  # ext4, xfs, fuse.sshfs, ...
    source: str


def mount_table() -> list[MountInfo]:
    """Every mount of this mount namespace, in the order of mounting. Raises OSError where /proc is not mounted."""
    with open("/proc/self/mountinfo", "rb") as file:
        return [_parse(line) for line in file]


def _parse(line: bytes) -> MountInfo:
    left, right = line.rstrip(b"\n").split(b" - ", 1)
    number, _parent, device, root, point, options = left.split(b" ")[:6]
    kind, source, super_options = right.split(b" ", 2)
    return MountInfo(
        id=int(number),
        device=device.decode(),
        root=_unescape(root),
        point=_unescape(point),
        read_only=b"ro" in options.split(b",") or b"ro" in super_options.split(b","),
        kind=kind.decode(errors="replace"),
        source=_unescape(source).decode(errors="surrogateescape"),
    )


def _unescape(word: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), word)


def contains(outer: bytes, inner: bytes) -> bool:
    """Whether path `inner` is `outer` or lies below it; both absolute."""
    return outer == inner or inner.startswith(outer.rstrip(b"/") + b"/")
