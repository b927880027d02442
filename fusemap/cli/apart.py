"""Taking readings in a process of its own, so that whoever watches can leave whenever he wants.

A call that waits for a FUSE server cannot be given up once the server has its request: not by a signal, not even by
SIGKILL (request_wait_answer() in fs/fuse/dev.c). A thread that waits so keeps its whole process from ending, with the
terminal or the port that it has. So the mount is asked by a child. If that is stuck, the parent says so, and ends when
it is told to; the child ends when the server answers, or is gone.

One byte asks for a reading; the answer is a length and that much JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
from typing import TYPE_CHECKING, NoReturn

from fusemap.cli.readings import Gone, Source

if TYPE_CHECKING:
    from fusemap.view.reading import Reading

_LENGTH = struct.Struct("<Q")
_PATIENCE_SECONDS = 1.0


class Apart:
    """Takes readings of `source` in a child. To be made before there are threads, and closed, or used with `with`."""

    def __init__(self, source: Source) -> None:
        asked, self._ask = os.pipe2(os.O_CLOEXEC)
        self._answers, answer = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if not self._pid:
            os.close(self._ask)
            os.close(self._answers)
            _be_the_child(source, asked, answer)
        os.close(asked)
        os.close(answer)

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the child go; one that is stuck is left alone."""
        os.close(self._ask)
        os.close(self._answers)
        ended = os.pidfd_open(self._pid)
        try:
            if select.select([ended], [], [], _PATIENCE_SECONDS)[0]:
                os.waitpid(self._pid, 0)
        finally:
            os.close(ended)

    def fileno(self) -> int:
        """A descriptor that is readable when the answer comes."""
        return self._answers

    def ask(self) -> None:
        """Asks for a reading; the one that was asked for before must have been taken."""
        with contextlib.suppress(BrokenPipeError):  # then `take` says so
            os.write(self._ask, b"?")

    def take(self) -> Reading:
        """The reading that was asked for; waits for it. Raises Gone."""
        from fusemap.view.reading import Reading

        answer = json.loads(self._exactly(*_LENGTH.unpack(self._exactly(_LENGTH.size))))
        if isinstance(answer, str):
            raise Gone(answer)
        return Reading(*answer)

    def read(self) -> Reading:
        """A reading, waited for. Raises Gone."""
        self.ask()
        return self.take()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = os.read(self._answers, size - len(data))
            if not more:
                raise Gone("the process that watched the tree has died; start again")
            data += more
        return data


def _be_the_child(source: Source, asked: int, answer: int) -> NoReturn:
    """Answers until nobody can ask any more. Ctrl-C and the terminal are the parent's."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        while os.read(asked, 1):
            try:
                data = json.dumps(source.read()).encode()
            except Gone as gone:
                data = json.dumps(str(gone)).encode()
            except PermissionError as error:
                data = json.dumps(f"the tree may not be watched any more: {error.strerror}").encode()
            data = _LENGTH.pack(len(data)) + data
            while data:
                data = data[os.write(answer, data) :]
    finally:
        os._exit(0)
