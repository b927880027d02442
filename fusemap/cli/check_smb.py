"""fusemap check --smb: is every file's id, as SMB clients see it, its number in the tree, and nobody else's?

What is asked is in fusemap.smb.columns. Which columns there are depends on what is given: `opened` and `listed` always;
`host` and `st_ino` where TREE is given, which is the mount beneath the share and so on the machine that has it; `9p`
with --9p. Where TREE is no fusemap mount, host and st_ino are what lstat(2) says, so that a share of a plain directory
can be judged like one of a mount.

What does not look right is asked for a second time before it is said, since a tree that is worked in changes between
two questions. Files that are gone when it is their turn are counted.

With --json, one object is printed. Paths are relative to the share's root, which is "."; bytes in them that are not
UTF-8 are lone surrogates, as Python's os.fsencode() takes them. New keys may come; these stay:

    format      "fusemap-check-smb"; version 1
    share       the share; tree and 9p: as they were given, or null
    columns     which of host, st_ino, opened, listed, 9p were asked for
    files       how many rows there are
    devices     the devices of the column host: their identities, or "major:minor" where TREE is no fusemap mount
    wrong       [{kind, paths, cause, was}]: see fusemap.smb.verdict; cause and was are null where there is none
    new, gone   files that are not in what was saved, and that were saved and are not there; null without --against
    mac_ids     "zero" where Macs are sent 0 for every id, else "same"; null with --as-mac
    alike       how many names have the id of another that looks the same, and were taken for links of it, because
                nobody could tell: always 0 with TREE
    renamed     {path: the share's name of it}, where that is another one
    unshown     [path]: what TREE has and the share does not show
    vanished    how many files went meanwhile
    unreadable  [{path, why}]
    rows        [{path, kind, device, inode, st_ino, opened, listed, 9p}]: kind is directory, symlink or file, device a
                position in devices; null is what was not asked or not told. Every row is there.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from fusemap.cli import check_saved, extras
from fusemap.cli.mounted import file_of
from fusemap.errors import Refused

if TYPE_CHECKING:
    from fusemap.p9.client import Client
    from fusemap.smb.columns import Beneath, Comparison, Row
    from fusemap.smb.verdict import Wrong

PASSWORD: Final = "FUSEMAP_SMB_PASSWORD"

DESCRIPTION: Final = """\
With --smb, a share is looked at instead: the id that its clients have for each file, by opening it and in the
directory's listing, is to be the file's number in TREE, the mount beneath the share, and no other file's. TREE may be
left out, for example on another machine; then the ids are only compared with each other, and with a 9P server's.
"""
EPILOG: Final = f"""\
A share of a mount, from the machine that has both, and the next day:
  fusemap check --smb //127.0.0.1/tree /mnt/tree --user alice --save ids.json
  fusemap check --smb //127.0.0.1/tree /mnt/tree --user alice --against ids.json
The password is asked for, or taken from the environment variable {PASSWORD} or from --password-file. Without
--user, a guest looks.
"""


def add_options(verb: argparse.ArgumentParser) -> None:
    """The options of `fusemap check` that are about a share."""
    group = verb.add_argument_group("a share")
    group.add_argument("--smb", metavar="//HOST[:PORT]/SHARE", help="look at this share instead of TREE alone")
    group.add_argument(
        "--9p",
        dest="served",
        metavar="ADDRESS",
        help="with --smb: compare with this 9P server of the same tree, tcp:HOST:PORT, unix:PATH or vsock:CID:PORT",
    )
    group.add_argument("--aname", metavar="DIR", help="with --9p: the directory that the share shows, if not all of it")
    group.add_argument("--user", metavar="NAME", help="with --smb: who looks, NAME or DOMAIN\\NAME; otherwise a guest")
    group.add_argument(
        "--password-file", metavar="FILE", help="with --user: where the password is, in the file's first line"
    )
    group.add_argument(
        "--as-mac", action="store_true", help="with --smb: look as a Mac does; Samba may tell Macs other ids"
    )


def check_options(options: argparse.Namespace) -> None:
    """Raises Refused for options that do not go together."""
    if options.smb is None:
        for given, name in (
            (options.served, "--9p"),
            (options.aname, "--aname"),
            (options.user, "--user"),
            (options.password_file, "--password-file"),
            (options.as_mac, "--as-mac"),
        ):
            if given:
                raise Refused(f"{name} is about a share: name that with --smb //HOST/SHARE, or leave {name} out")
        if options.tree is None:
            raise Refused("name TREE, a mounted tree, or a share with --smb //HOST/SHARE")
    if options.aname is not None and options.served is None:
        raise Refused("--aname is about a 9P server: name that with --9p ADDRESS, or leave --aname out")
    if options.password_file is not None and options.user is None:
        raise Refused("--password-file is of no use to a guest: name the user with --user")


def run(options: argparse.Namespace) -> int:
    """Looks at the share and prints what is found."""
    extras.need("smbprotocol", "smb", "fusemap check --smb needs smbprotocol")
    from fusemap.smb.address import parse
    from fusemap.smb.columns import Comparison
    from fusemap.smb.share import Share
    from fusemap.smb.verdict import id_of, judge

    address = parse(options.smb)
    known = check_saved.read(options.against) if options.against else None
    beneath = None if options.tree is None else _beneath(options.tree)
    password = _password(options.user, options.password_file)
    progress = _Progress()
    try:
        with contextlib.ExitStack() as stack:
            served = None if options.served is None else stack.enter_context(_served(options))
            share = stack.enter_context(Share(address, options.user, password, options.as_mac))
            found = Comparison(share, beneath, served, progress)
            found.walk()
            wrong = judge(sorted(found.rows()), known)
            if wrong:
                found.look_again({path for each in wrong for path in each.paths})
                wrong = judge(sorted(found.rows()), known)
            mac = None if options.as_mac else _mac_ids(Share(address, options.user, password, as_mac=True))
    finally:
        progress.end()
    numbers = {row.path: number for row in found.rows() if (number := id_of(row)) is not None}
    if options.save:
        check_saved.save(options.save, numbers)
    if options.json:
        _print_json(options, found, wrong, numbers, known, mac)
    else:
        from fusemap.cli.check_report import report
        from fusemap.view import draw

        draw(report(options, found, wrong, numbers, known, mac), sys.stdout)
    return 1 if wrong else 0


def _beneath(tree: str) -> Beneath:
    """TREE, with whoever can tell device and inode of the host's files."""
    from fusemap.smb.columns import Beneath

    def plain(_: str, st: os.stat_result) -> tuple[str, int] | None:
        return f"{os.major(st.st_dev)}:{os.minor(st.st_dev)}", st.st_ino

    def mounted(path: str, st: os.stat_result) -> tuple[str, int] | None:
        if st.st_dev != device:
            return plain(path, st)  # something else is mounted in the mount
        try:
            found = file_of(path, st.st_ino)
        except Refused:  # gone, or nobody knows
            return None
        return found["device"], found["inode"]

    try:
        st = os.stat(tree)
        device = st.st_dev
        file_of(tree, st.st_ino)
    except (Refused, OSError):
        return Beneath(tree, plain, mounted=False)
    return Beneath(tree, mounted, mounted=True)


def _served(options: argparse.Namespace) -> Client:
    from fusemap.p9.client import Client

    return Client(options.served, options.aname or "")


def _password(user: str | None, file: str | None) -> str:
    """The user's password. Raises Refused when there is none to be had."""
    if user is None:
        return ""
    if file is not None:
        try:
            with open(file, encoding="utf-8") as stream:
                if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                    raise Refused(f"{file} can be read by others: chmod 600 {file}")
                return stream.readline().rstrip("\r\n")
        except OSError as error:
            raise Refused(f"cannot read the password in {file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise Refused(f"{file} is no text: write the password in its first line") from error
    if PASSWORD in os.environ:
        return os.environ[PASSWORD]
    if not sys.stdin.isatty():
        raise Refused(f"no password for {user}: put it into the environment variable {PASSWORD}, or a --password-file")
    try:
        return getpass.getpass(f"Password of {user}: ")
    except EOFError:
        raise Refused(f"no password for {user}: type it, or put it into a --password-file") from None


def _mac_ids(share: Any) -> str:
    """What a Mac is told of the share's root: "zero", or the "same" as others."""
    with share:
        return "zero" if share.ids([""]) == [0] else "same"


def _print_json(
    options: argparse.Namespace,
    found: Comparison,
    wrong: list[Wrong],
    numbers: Mapping[str, int],
    known: Mapping[str, int] | None,
    mac: str | None,
) -> None:
    from fusemap.smb.verdict import taken_for_links

    devices: dict[str, int] = {}
    rows = [_row(row, devices) for row in found.rows()]
    head = {
        "format": "fusemap-check-smb",
        "version": 1,
        "share": options.smb,
        "tree": options.tree,
        "9p": options.served,
        "columns": list(columns(found)),
        "files": len(rows),
        "devices": list(devices),
        "wrong": [{"kind": w.kind, "paths": w.paths, "cause": w.cause, "was": w.was} for w in wrong],
        "new": None if known is None else len(numbers.keys() - known.keys()),
        "gone": None if known is None else len(known.keys() - numbers.keys()),
        "mac_ids": mac,
        "alike": taken_for_links(found.rows()),
        "renamed": {row.path: row.shown for row in found.rows() if row.shown is not None},
        "unshown": list(unshown(found)),
        "vanished": found.vanished,
        "unreadable": [{"path": path, "why": why} for path, why in found.unreadable.items()],
    }
    print(json.dumps(head, indent=2)[:-2] + ',\n  "rows": [')
    for at, row in enumerate(rows):
        print(f"    {json.dumps(row)}{',' * (at < len(rows) - 1)}")
    print("  ]\n}")


def _row(row: Row, devices: dict[str, int]) -> dict[str, object]:
    device = None if row.host is None else devices.setdefault(row.host[0], len(devices))
    return {
        "path": row.path,
        "kind": "symlink" if row.link else "directory" if row.directory else "file",
        "device": device,
        "inode": None if row.host is None else row.host[1],
        "st_ino": row.st_ino,
        "opened": row.opened,
        "listed": row.listed,
        "9p": row.qid,
    }


def columns(found: Comparison) -> Iterator[str]:
    """The names of the columns that were asked for."""
    if found.beneath is not None:
        yield from ("host", "st_ino")
    yield from ("opened", "listed")
    if found.served is not None:
        yield "9p"


def unshown(found: Comparison) -> Iterator[str]:
    """Paths in TREE that the share does not show."""
    for directory, names in found.unshown.items():
        yield from (name if directory == "." else f"{directory}/{name}" for name in names)


class _Progress:
    """A running count on standard error, where that is a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    def __call__(self, count: int) -> None:
        """`count` files were looked at."""
        if self._terminal:
            print(f"\r\033[K{count:,} files", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """The count makes room for what comes next."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
