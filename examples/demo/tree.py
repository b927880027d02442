"""The demo's tree: a container's root (an overlay of four tmpfs, xino=on) with real file systems mounted in it.

Each file system counts its inodes from a small number of its own, so most files share theirs with some others. The
overlay sets the top bits of its inode numbers to tell its layers apart. Every file holds its own path, so that whoever
reads another file's bytes is found out, and every tenth has a second name, a hard link.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

LINK_EVERY: Final = 10
_MIB: Final = 1 << 20
_IMAGES: Final = {
    # mount point: (file system, how it is made, MiB)
    "data": ("ext4", ["mkfs.ext4", "-q", "-F"], 64),
    "srv": ("xfs", ["mkfs.xfs", "-q", "-f"], 320),
    "home": ("btrfs", ["mkfs.btrfs", "-q", "-f"], 128),
}
SUBVOLUMES: Final = ("home/alice", "home/bob")
LAYERS: Final = ("upper", "lower1", "lower2", "lower3")


def build(directory: Path, files: int) -> Path:
    """Builds the tree below `directory`, `files` files on each file system; its root. Raises CalledProcessError."""
    root = directory / "tree"
    root.mkdir()
    for layer in LAYERS:
        place = directory / layer
        place.mkdir()
        _run("mount", "-t", "tmpfs", "-o", "size=64m", layer, place)
        (place / "files").mkdir()
        _fill(place / "files", f"usr/{layer}", files // len(LAYERS))
    upper = directory / "upper"
    (upper / "work").mkdir()
    lower = ":".join(str(directory / layer / "files") for layer in LAYERS[1:])
    options = f"xino=on,lowerdir={lower},upperdir={upper}/files,workdir={upper}/work"
    _run("mount", "-t", "overlay", "-o", options, "overlay", root)
    for point, (kind, make, size) in _IMAGES.items():
        image = directory / f"{kind}.img"
        with open(image, "xb") as file:
            file.truncate(size * _MIB)
        _run(*make, image)
        (root / point).mkdir()
        _run("mount", "-o", "loop", image, root / point)
        image.unlink()  # the loop device keeps it as long as it is needed
        if point != "home":
            _fill(root, point, files)
    for subvolume in SUBVOLUMES:
        _run("btrfs", "subvolume", "create", root / subvolume)
        _fill(root, subvolume, files)
    (root / "tmp").mkdir()
    _run("mount", "-t", "tmpfs", "-o", "size=64m", "tmp", root / "tmp")
    _fill(root, "tmp", files)
    return root


def _fill(root: Path, top: str, files: int) -> None:
    for number in range(files):
        name = f"{top}/d{number // 20}/f{number:03}"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n" * 20)
        if number % LINK_EVERY == 0:
            os.link(root / name, root / f"{name}-again")


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
