"""What `mount` and `serve` have in common: how a tree becomes numbers, the options that say so, and opening both."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, Any, Final

from fusemap.cli.streams import sentence
from fusemap.errors import FusemapError, Refused
from fusemap.host.identity import named

if TYPE_CHECKING:
    import argparse

    from fusemap.qid import Mapper
    from fusemap.table import Table
    from fusemap.tree import Tree

REUSE: Final = ("keep", "new-number")
MODES: Final = ("suffix", "prefix", "qemu", "raw")
_COLLIDING: Final = ("qemu", "raw")


def add_options(verb: Any) -> None:
    """--map, -k, --state, --name and --reuse."""
    verb.add_argument(
        "--map",
        choices=MODES,
        default="suffix",
        help="how device and inode become one number: suffix (default) and prefix never collide; qemu is QEMU's "
        "multidevs=remap, which can; raw shows the host's numbers, which do",
    )
    verb.add_argument(
        "-k",
        type=int,
        choices=range(9),
        default=0,
        metavar="K",
        help="order of the Exponential-Golomb codes of suffix and qemu, 0 to 8 (default 0)",
    )
    verb.add_argument(
        "--state",
        default="auto",
        metavar="STATE",
        help="where the table of numbers is kept: auto (default) in attributes of SRC, or in a database where those "
        "cannot hold it; xattr; sqlite:FILE; none for this session only",
    )
    verb.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="PATH=NAME",
        help="the device at PATH has no identity of its own (tmpfs, overlay), or that of its original (a copy of a "
        "disk): know it by NAME, today and tomorrow",
    )
    verb.add_argument(
        "--reuse",
        choices=REUSE,
        default="keep",
        help="what number a file has that the host gives the inode number of a deleted one: keep (default) the same, "
        "with another generation; new-number one that no file has had, which takes a record for every file",
    )


def settle(options: argparse.Namespace) -> None:
    """Reads the names and makes every path absolute, since a background process works in "/". Raises Refused."""
    if not options.source:  # as of a variable that is not set: the current directory is not what was meant
        raise Refused("SRC is empty: name the directory to show")
    options.source = os.path.abspath(options.source)
    options.log = options.log and os.path.abspath(options.log)
    options.names = _read_names(options.name)
    if options.state.startswith("sqlite:") and options.state != "sqlite:":
        options.state = "sqlite:" + os.path.abspath(options.state.removeprefix("sqlite:"))


def open_table(options: argparse.Namespace) -> Table:
    """The table of numbers. Raises Refused."""
    from fusemap.table import open_table
    from fusemap.table.present import device_key_of, present

    # A colliding map is for show and leaves nothing behind that another map would have to contradict.
    state = "none" if options.map in _COLLIDING and options.state == "auto" else options.state
    try:
        return open_table(
            options.source,
            state,
            options.map,
            options.k,
            device_of=lambda dev: device_key_of(present(options.source, options.names), dev),
        )
    except FusemapError:
        raise
    except OSError as error:
        raise Refused(f"the table of {options.source}: {sentence(error)}") from error


def open_tree(options: argparse.Namespace, table: Table) -> tuple[Tree, Mapper | None]:
    """The tree, and what numbers it shows where that is not its own numbers. Raises Refused.

    Where numbers collide, nodes have others, so that one file is never taken for another.
    """
    from fusemap.qid import Mapper
    from fusemap.tree import Tree

    mapper = Mapper("suffix") if options.map in _COLLIDING else table.mapper(options.reuse == "new-number")
    shown = None
    if options.map in _COLLIDING:
        shown = Mapper("raw") if options.map == "raw" else table.mapper()
    try:
        return Tree(options.source, mapper, options.names, table.seen), shown
    except FusemapError:
        raise
    except OSError as error:
        raise Refused(f"cannot open {options.source}: {error.strerror}") from error


def raise_descriptor_limit() -> None:
    """Clients' open files are descriptors of ours; known files are not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(0.001)  # a worker thread that has finished waits for the loop's thread no longer than this


def _read_names(words: list[str]) -> dict[str, str]:
    names = {}
    for word in words:
        path, equals, name = word.rpartition("=")
        if not equals or not path or not name:
            raise Refused(f"--name {word}: write PATH=NAME, for example --name /srv/tree/scratch=scratch")
        named(name)
        names[os.path.abspath(path)] = name
    return names
