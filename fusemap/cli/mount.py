"""fusemap mount: shows a tree as one device at a mount point."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from fusemap.cli.daemon import detach
from fusemap.cli.logs import set_up
from fusemap.errors import FusemapError, Refused
from fusemap.fuse import mountpoint
from fusemap.host.identity import named

if TYPE_CHECKING:
    from fusemap.fuse.operations import Operations
    from fusemap.table import Table

log = logging.getLogger(__name__)

_MODES: Final = ("suffix", "prefix", "qemu", "raw")
_COLLIDING: Final = ("qemu", "raw")
_CACHES: Final = ("auto", "none", "always")
# Words of fstab(5) that are for mount(8), systemd or users' rights to mount, not for us
_OTHERS: Final = frozenset(
    {"defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail", "allow_other"}
    | {"default_permissions", "no_allow_other"}
)

DESCRIPTION: Final = """\
Shows the directory SRC, with everything mounted beneath it, at MNT as one device on which every file has its own inode
number. Runs in the background and returns as soon as MNT can be used; it ends when MNT is unmounted (umount MNT).
"""
EPILOG: Final = """\
-o takes the words of mount(8) (ro, nosuid, nodev, noexec, noatime and their opposites), allow_other and no_allow_other
(may other users enter: yes for root's mounts, no for an ordinary user's), and this command's own options as name=value:
  /srv/tree  /mnt/tree  fuse.fusemap  map=suffix,cache=auto,nofail  0 0
"""


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    verb = verbs.add_parser(
        "mount",
        help="show a tree as one device",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("source", metavar="SRC", help="the directory to show")
    verb.add_argument("target", metavar="MNT", help="an existing directory outside SRC")
    verb.add_argument("-f", "--foreground", action="store_true", help="stay here and log to standard error")
    verb.add_argument(
        "--map",
        choices=_MODES,
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
        help="the device at PATH has no identity of its own (tmpfs, overlay): know it by NAME, today and tomorrow",
    )
    verb.add_argument(
        "--cache",
        choices=_CACHES,
        default="auto",
        help="what the kernel may keep: auto (default) attributes for a second and data while unchanged; none nothing; "
        "always everything, for trees that only change through the mount",
    )
    verb.add_argument("--read-only", action="store_true", help="refuse every change")
    verb.add_argument("--log", metavar="FILE", help="log to FILE instead of syslog (or standard error with -f)")
    verb.add_argument("-v", "--verbose", action="store_true", help="log more")
    verb.add_argument("-o", dest="words", action="append", default=[], metavar="OPTIONS", help="see below")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Mounts and, unless in the foreground, returns once the mount is usable."""
    how = _read_words(options)
    mountpoint.check(options.source, options.target)
    # The background process works in "/".
    options.source, target = os.path.abspath(options.source), os.path.realpath(options.target)
    options.log = options.log and os.path.abspath(options.log)
    options.names = _read_names(options.name)
    if options.state.startswith("sqlite:"):
        options.state = "sqlite:" + os.path.abspath(options.state.removeprefix("sqlite:"))
    _raise_descriptor_limit()
    if options.foreground:
        set_up(options.log, options.verbose, foreground=True)
        _serve(options, how, target, lambda: None)
        return 0
    return detach(lambda ready: _in_background(options, how, target, ready), lambda: os.statvfs(target))


def _in_background(options: argparse.Namespace, how: mountpoint.MountOptions, target: str, ready: Any) -> None:
    set_up(options.log, options.verbose, foreground=False)
    _serve(options, how, target, ready)


def _serve(options: argparse.Namespace, how: mountpoint.MountOptions, target: str, ready: Any) -> None:
    from fusemap.fuse.session import serve

    # From the moment of mounting no signal may end the process without unmounting.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # Mounted first: where that is refused, no table has been begun. Nobody is answered before there is a tree.
    device = mountpoint.mount(target, how)
    try:
        with contextlib.closing(_open_table(options)) as table:
            operations = _operations(options, table)
            log.info("%s is mounted on %s, map %s", options.source, target, options.map)
            serve(operations, device, target, ready)
        log.info("%s is unmounted", target)
    except KeyboardInterrupt:
        mountpoint.unmount(target)
    except BaseException:
        mountpoint.unmount(target)
        raise


def _open_table(options: argparse.Namespace) -> Table:
    from fusemap.table import open_table
    from fusemap.table.present import device_key_of, present

    # A colliding map is for show and leaves nothing behind that another map would have to contradict.
    state = "none" if options.map in _COLLIDING and options.state == "auto" else options.state
    return open_table(
        options.source,
        state,
        options.map,
        options.k,
        device_of=lambda dev: device_key_of(present(options.source, options.names), dev),
    )


def _operations(options: argparse.Namespace, table: Table) -> Operations:
    from fusemap.fuse.attributes import CACHES
    from fusemap.fuse.operations import Operations
    from fusemap.qid import Mapper
    from fusemap.tree import Tree

    # Where numbers collide, nodes have others, so that the kernel does not take two files for one.
    mapper = Mapper("suffix") if options.map in _COLLIDING else table.mapper()
    shown = None
    if options.map in _COLLIDING:
        shown = Mapper("raw") if options.map == "raw" else table.mapper()
    try:
        tree = Tree(options.source, mapper, options.names, table.seen)
    except FusemapError:
        raise
    except OSError as error:
        raise Refused(f"cannot open {options.source}: {error.strerror}") from error
    return Operations(tree, CACHES[options.cache], shown)


def _read_words(options: argparse.Namespace) -> mountpoint.MountOptions:
    """The -o words: some stand for options of ours, the others become mount(2) flags."""
    how = mountpoint.MountOptions(source=os.path.abspath(options.source))
    for word in ",".join(options.words).split(","):
        name, _, value = word.partition("=")
        if not word or name == "comment" or name.startswith(("x-", "X-")):
            continue
        if word in mountpoint.FLAGS:
            give, take = mountpoint.FLAGS[word]
            how.flags = (how.flags | give) & ~take
            how.words.append(word)
        elif name == "map":
            options.map = _one_of(name, value, _MODES)
        elif name == "cache":
            options.cache = _one_of(name, value, _CACHES)
        elif name == "k":
            options.k = int(_one_of(name, value, tuple(map(str, range(9)))))
        elif name == "state" and value:
            options.state = value
        elif name == "name" and "=" in value:
            options.name.append(value)
        elif name == "log" and value:
            options.log = value
        elif name == "fsname" and value:
            how.source = value
        elif word == "allow_other":
            how.allow_other = True
        elif word == "no_allow_other":
            how.allow_other = False
        elif word not in _OTHERS:
            raise Refused(f"unknown mount option {word!r}; see fusemap mount --help")
    if options.read_only:
        how.flags |= FLAG_READ_ONLY
        how.words.append("ro")
    return how


FLAG_READ_ONLY: Final = mountpoint.FLAGS["ro"][0]


def _read_names(words: list[str]) -> dict[str, str]:
    names = {}
    for word in words:
        path, equals, name = word.rpartition("=")
        if not equals or not path or not name:
            raise Refused(f"--name {word}: write PATH=NAME, for example --name /srv/tree/scratch=scratch")
        named(name)
        names[os.path.abspath(path)] = name
    return names


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise Refused(f"option {name}={value}: choose {', '.join(sorted(choices)[:-1])} or {sorted(choices)[-1]}")
    return value


def _raise_descriptor_limit() -> None:
    """Clients' open files are descriptors of ours; known files are not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(0.001)  # a worker thread that has finished waits for the loop's thread no longer than this
