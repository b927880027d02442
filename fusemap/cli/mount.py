"""fusemap mount: shows a tree as one device at a mount point."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from fusemap.cli import exported
from fusemap.cli.daemon import detach
from fusemap.cli.logs import set_up
from fusemap.errors import Refused
from fusemap.fuse import mountpoint

if TYPE_CHECKING:
    from fusemap.fuse.operations import Operations
    from fusemap.table import Table

log = logging.getLogger(__name__)

_CACHES: Final = ("auto", "none", "always")
# Words of fstab(5) that are for mount(8), systemd or users' rights to mount, not for us
_OTHERS: Final = frozenset(
    {"defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail", "allow_other"}
    | {"default_permissions", "no_allow_other"}
)

DESCRIPTION: Final = """\
Shows the directory SRC, with everything mounted beneath it, at MNT as one device on which every file has its own inode
number. Runs in the background and returns as soon as MNT can be used; it ends when MNT is unmounted (umount MNT).
What it does is told by the files in MNT/.fusemap, a directory that no listing shows, to root and who mounted it.
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
    exported.add_options(verb)
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
    target = os.path.realpath(options.target)
    exported.settle(options)
    exported.raise_descriptor_limit()
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
        with contextlib.closing(exported.open_table(options)) as table:
            operations = _operations(options, table)
            log.info("%s is mounted on %s, map %s", options.source, target, options.map)
            serve(operations, device, target, ready)
        log.info("%s is unmounted", target)
    except KeyboardInterrupt:
        mountpoint.unmount(target)
    except BaseException:
        mountpoint.unmount(target)
        raise


def _operations(options: argparse.Namespace, table: Table) -> Operations:
    from fusemap.fuse.attributes import CACHES
    from fusemap.fuse.operations import Operations

    tree, shown = exported.open_tree(options, table)
    return Operations(tree, CACHES[options.cache], shown, table)


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
            options.map = _one_of(name, value, exported.MODES)
        elif name == "cache":
            options.cache = _one_of(name, value, _CACHES)
        elif name == "reuse":
            options.reuse = _one_of(name, value, exported.REUSE)
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


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise Refused(f"option {name}={value}: choose {', '.join(sorted(choices)[:-1])} or {sorted(choices)[-1]}")
    return value
