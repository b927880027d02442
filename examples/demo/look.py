"""Looks at a tree as a program would, and prints what it sees as JSON: `look.py DIRECTORY LIMIT`.

A process of its own, because a broken file system may never answer, and the one who waits for it has to be killed.
Stops after LIMIT entries: a tree that seems to contain itself has no end.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TypedDict


class Sight(TypedDict):
    """What was seen. Paths are relative to the tree's root."""

    files: dict[str, tuple[int, int, str]]  # path -> number of its own, number in the listing, first line
    directories: dict[str, tuple[int, int]]  # path -> number of its own, number in the listing
    errors: list[str]


def look(root: str, limit: int) -> Sight:
    """Walks `root` and reads every file."""
    seen: Sight = {"files": {}, "directories": {}, "errors": []}
    todo = [""]
    while todo and len(seen["files"]) + len(seen["directories"]) < limit:
        directory = todo.pop()
        try:
            with os.scandir(os.path.join(root, directory)) as entries:
                found = sorted((entry.name, entry.inode()) for entry in entries)
        except OSError as error:
            seen["errors"].append(f"{directory or '.'}: {error.strerror}")
            continue
        for name, listed in found:
            path = os.path.join(directory, name)
            try:
                number = _look_at(root, path, listed, seen)
            except OSError as error:
                seen["errors"].append(f"{path}: {error.strerror}")
                continue
            if number is not None:
                todo.append(path)
    return seen


def _look_at(root: str, path: str, listed: int, seen: Sight) -> int | None:
    """Notes one entry; returns its number if it is a directory. Raises OSError."""
    full = os.path.join(root, path)
    number = os.lstat(full).st_ino
    if os.path.isdir(full):
        seen["directories"][path] = (number, listed)
        return number
    with open(full, errors="replace") as file:
        seen["files"][path] = (number, listed, file.readline().rstrip("\n"))
    return None


if __name__ == "__main__":
    json.dump(look(sys.argv[1], int(sys.argv[2])), sys.stdout)
