"""Standard input, output and error: all there when a command begins, and looked after when it ends.

Whoever starts a program may have closed any of them (`<&-`, or a service manager that means well). The next file that
is opened then gets the number: the FUSE device, say, which is lost as soon as the process goes into the background and
lets go of 0, 1 and 2. And Python has None for the stream, which has no methods.

What is printed stays in a buffer for a while. Where nobody writes it out before the interpreter does, a full disk or a
reader that went away (`| head`) is met too late for a sentence and an exit status of our own.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Final

from fusemap.errors import Refused

_LAST: Final = 2
_STATUS: Final = 2


def complete() -> None:
    """Opens what is closed: nothing comes from there, and what is written there is lost.

    Names that the terminal's encoding does not have are written as \\xNN, not refused.
    """
    for fd in range(_LAST + 1):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free, which is this one
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def sentence(error: OSError) -> str:
    """What the system has refused, and where."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{where}{error.strerror or error}"


def plain(text: str) -> str:
    """One line, whatever names are in it: bytes that are not UTF-8 as \\xNN, and what would move the cursor likewise.

    >>> plain(os.fsdecode(bytes([97, 255, 27])) + "b")
    'a\\\\xff\\\\x1bb'
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character of UTF-16
        data = text.encode("utf-8", "backslashreplace")
    text = data.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() or letter == "\t" else ascii(letter)[1:-1] for letter in text)


def complain(text: str) -> None:
    """Says what is wrong, in one line, where there is somebody to be told."""
    try:
        print(f"fusemap: {plain(text)}", file=sys.stderr, flush=True)
    except OSError:
        _turn_away(_LAST)


@contextlib.contextmanager
def output() -> Iterator[None]:
    """Printing to standard output, all of it. Raises Refused where that cannot be written, BrokenPipeError."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop()
        raise Refused(f"cannot write to standard output: {error.strerror}") from error


def drop() -> None:
    """Nobody reads what is printed, or can: what is left in the buffer is not tried again."""
    _turn_away(1)


def finish(status: int) -> int:
    """Writes out what was printed; the exit status, which is another one where that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop()
        return status or 1
    except OSError as error:
        drop()
        complain(f"cannot write to standard output: {error.strerror}")
        return _STATUS
    return status


def _turn_away(fd: int) -> None:
    with contextlib.suppress(OSError):  # in a place without /dev/null
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fd)
        os.close(null)
