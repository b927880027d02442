"""Putting a tree into words, so that two trees can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any


def describe(path: str | Path, times: bool = False) -> dict[str, Any]:
    """What stat and the extended attributes say of a file, without what differs between two copies of it.

    `times` adds the time of modification in nanoseconds.
    """
    st = os.lstat(path)
    told: dict[str, Any] = {
        "kind": stat.filemode(st.st_mode)[0],
        "mode": oct(st.st_mode & 0o7777),
        "owner": (st.st_uid, st.st_gid),
        "nlink": st.st_nlink,
    }
    if stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode):
        told["size"] = st.st_size
    if stat.S_ISLNK(st.st_mode):
        told["target"] = os.readlink(path)
    if stat.S_ISBLK(st.st_mode) or stat.S_ISCHR(st.st_mode):
        told["rdev"] = st.st_rdev
    if times:
        told["mtime"] = st.st_mtime_ns
    names = os.listxattr(path, follow_symlinks=False)
    told["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}
    return told


def describe_tree(top: str | Path, times: bool = True) -> dict[str, Any]:
    """`describe` of everything below `top`, with a hash of every file's content and the names that are hard links."""
    told: dict[str, Any] = {}
    first: dict[int, str] = {}
    for directory, names, files in os.walk(top):
        for name in sorted([*names, *files]):
            path = os.path.join(directory, name)
            key = os.path.relpath(path, top)
            st = os.lstat(path)
            told[key] = describe(path, times)
            if stat.S_ISREG(st.st_mode):
                told[key]["content"] = content(path)
            if not stat.S_ISDIR(st.st_mode) and st.st_nlink > 1:
                told[key]["same as"] = first.setdefault(st.st_ino, key)
        names.sort()
    return told


def content(path: str | Path) -> str:
    """A hash of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() if hasattr(hashlib, "file_digest") else _md5(file.read())


def _md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()
