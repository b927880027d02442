"""`fusemap scan --html FILE` and `--png FILE`: where pictures go, and that a FILE is whole or as it was.

That a picture cannot be written where it is to go is said before the walk, which may take an hour. The file itself is
made after it, under another name beside FILE, and renamed: so a census of a tree that FILE is in does not meet it.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any, Final

from fusemap.cli import extras, files, streams
from fusemap.errors import Refused

if TYPE_CHECKING:
    import argparse

    from fusemap.census import Census
    from fusemap.census.census import Progress

STANDARD_OUTPUT: Final = "-"


def add_options(verb: Any) -> None:
    """--html and --png."""
    verb.add_argument(
        "--html", metavar="FILE", help="write a page for a browser, one file without a network; - is standard output"
    )
    verb.add_argument(
        "--png", metavar="FILE", help="draw the numbers before and after, for a report; - is standard output"
    )


def wanted(options: argparse.Namespace) -> bool:
    """Whether any picture is to be made."""
    return options.html is not None or options.png is not None


def on_output(options: argparse.Namespace) -> bool:
    """Whether one goes to standard output, in place of the report."""
    return STANDARD_OUTPUT in (options.html, options.png)


def check(options: argparse.Namespace) -> None:
    """Makes the paths absolute and raises Refused where a picture could not be written."""
    given = [name for name in (options.html, options.png) if name is not None]
    if given.count(STANDARD_OUTPUT) + options.json > 1 and on_output(options):
        raise Refused("standard output can hold one thing: give --html or --png a file, or leave out --json")
    if options.png is not None:
        extras.need("PIL", "png", "fusemap scan --png needs Pillow")
    if options.png == STANDARD_OUTPUT and sys.stdout.isatty():
        raise Refused("a picture is nothing for a terminal: send it into a file, or name one after --png")
    for option in ("html", "png"):
        name = getattr(options, option)
        if name is not None and name != STANDARD_OUTPUT:
            setattr(options, option, _checked(name))
    if options.html is not None and options.html == options.png != STANDARD_OUTPUT:
        raise Refused("--html and --png name one file: give them two")


def make(census: Census, options: argparse.Namespace, progress: Progress) -> None:
    """Draws an open census and writes what was asked for. Raises Refused, OSError."""
    from fusemap.view.model import model
    from fusemap.view.page import page

    def told(doing: str, done: float) -> None:
        progress(doing, census.names, len(census.devices), done)

    found = model(census, told)
    if options.html is not None:
        told("writing the page", 1)
        _write(options.html, page(found).encode())
    if options.png is not None:
        from fusemap.view.png import png

        told("writing the picture", 1)
        _write(options.png, png(found))


def _checked(name: str) -> str:
    """The file itself, if `name` is a symbolic link to it."""
    file = os.path.realpath(name)
    directory = os.path.dirname(file)
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise Refused(f"cannot write {name}: {error.strerror}") from error
    if not stat.S_ISREG(mode) or not name or name.endswith("/"):
        raise Refused(f"cannot write {name}: it is not a file; name one, or - for standard output")
    if not os.path.isdir(directory):
        raise Refused(f"cannot write {name}: there is no directory {directory}; make it first")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Refused(f"cannot write {name}: no file can be made in {directory}; name another place")
    return file


def _write(name: str, data: bytes) -> None:
    if name == STANDARD_OUTPUT:
        with streams.output():
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return
    files.write(name, data)
