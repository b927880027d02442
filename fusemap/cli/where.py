"""fusemap where: which file a number belongs to."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from fusemap.cli import streams
from fusemap.cli.mounted import locate


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    verb = verbs.add_parser(
        "where",
        help="number -> file",
        description="Prints the host device and inode that a number of a mounted tree stands for, and every path of "
        "the file, which are found by walking the tree. Exit 1 when no file has the number.",
    )
    verb.add_argument("tree", metavar="TREE", help="the mount point of a fusemap mount")
    verb.add_argument("number", type=int, metavar="NUMBER", help="an inode number as ls -i or find -inum shows it")
    verb.add_argument("--first", action="store_true", help="stop at the first path")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints where the number is."""
    found = locate(options.tree, options.number)
    if found is None:
        streams.complain(f"no file of {options.tree} was given the number {options.number}")
        return 1
    paths = []
    for path in _paths(options.tree, options.number):
        paths.append(os.fsencode(path).decode("utf-8", "backslashreplace"))
        if options.first:
            break
    if options.json:
        print(json.dumps({**found, "paths": paths}, indent=2))
    else:
        for path in paths or ["(no path: deleted, moved away, or not readable)"]:
            print(f"{found['device']}\t{found['inode']}\t{streams.plain(path)}")
    return 0 if paths else 1


def _paths(tree: str, number: int) -> Iterator[str]:
    """Every path below `tree` whose entry shows `number`; directories that cannot be read are named and left out."""
    if os.lstat(tree).st_ino == number:
        yield tree
    device = os.lstat(tree).st_dev
    todo = [tree]
    while todo:
        directory = todo.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.inode() == number:
                        yield entry.path
                    if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device:
                        todo.append(entry.path)
        except OSError as error:
            streams.complain(streams.sentence(error))
