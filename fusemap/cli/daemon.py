"""Going into the background, without letting the caller go before the work can be used."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable

from fusemap.cli.streams import plain, sentence
from fusemap.errors import FusemapError


def detach(work: Callable[[Callable[[], None]], None], usable: Callable[[], object]) -> int:
    """Runs `work(ready)` in a new session and returns its exit status for the caller.

    Returns 0 once `work` has called `ready` and `usable`, called here, returns; 2 when it was refused, with its
    sentence on standard error; 1 when it died.
    """
    sys.stdout.flush()
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        _background(work, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    if answer == b"ready":
        try:
            usable()
            return 0
        except OSError:
            answer = b""
    died = "fusemap: the background process died at its start; see the log\n"
    with contextlib.suppress(OSError):
        sys.stderr.write(answer.decode(errors="replace") or died)
    return 2 if answer else 1


def _background(work: Callable[[Callable[[], None]], None], writer: int) -> None:
    """The child: never returns."""
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.chdir("/")
    told = False

    def tell(word: bytes) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(writer, word)
            os.close(writer)

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        tell(b"ready")

    status = 0
    try:
        work(ready)
    except FusemapError as error:
        tell(f"fusemap: {plain(str(error))}\n".encode())
        status = 2
    except OSError as error:
        tell(f"fusemap: {plain(sentence(error))}\n".encode())
        status = 2
    except BaseException:
        tell(traceback.format_exc().encode())
        status = 1
    os._exit(status)
