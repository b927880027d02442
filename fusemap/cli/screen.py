"""The terminal while `fusemap top` has it: readings come, keys are pressed, the screen is drawn anew.

Everything waits in one select: for a reading, a key, or a signal. A mount that does not answer, because a disk below
it does not, is something that can be shown, and left.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from fusemap.view.reading import News, Reading, SoFar, is_successor, news
from fusemap.view.terminal import styled
from fusemap.view.top import screen

if TYPE_CHECKING:
    from types import FrameType

    from fusemap.cli.apart import Apart

_KEPT: Final = 200
_LATE_SECONDS: Final = 2.0
_KEYS: Final = "q ends this"
_QUIT: Final = (b"q", b"Q", b"")


@contextlib.contextmanager
def signals_end_it() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does: the terminal is put in order first."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Screen:
    """Draws readings of a tree, one every `interval` seconds."""

    def __init__(self, tree: Apart, interval: float) -> None:
        self._tree = tree
        self._interval = interval
        self._log: deque[News] = deque(maxlen=_KEPT)
        self._now: Reading | None = None
        self._before: Reading | None = None
        self._so_far = SoFar()
        self._seen: Reading | None = None
        self._asked = False
        self._due = self._came = time.monotonic()
        self._suspended = False

    def run(self) -> None:
        """Draws until q is pressed. Raises Gone when the tree is not shown any more, KeyboardInterrupt."""
        waker, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        stop = signal.signal(signal.SIGTSTP, self._suspend)
        earlier = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        try:
            while not self._shown(waker):
                os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            signal.set_wakeup_fd(earlier)
            signal.signal(signal.SIGTSTP, stop)
            os.close(waker)
            os.close(wake)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._suspended = True

    def _shown(self, waker: int) -> bool:
        """Draws until q is pressed (True), or Ctrl-Z (False): then the terminal is the shell's for a while."""
        from rich.live import Live

        heard = [waker, self._tree, *([sys.stdin] if sys.stdin.isatty() else [])]
        with _keys_at_once(), Live(screen=True, auto_refresh=False) as live:
            while True:
                self._ask()
                live.update(self._picture(live.console.width, live.console.height), refresh=True)
                ready = select.select(heard, [], [], self._until_due())[0]
                if sys.stdin in ready and os.read(sys.stdin.fileno(), 1) in _QUIT:
                    return True
                if waker in ready:
                    os.read(waker, 4096)
                if self._suspended:
                    self._suspended = False
                    return False
                if self._tree in ready:
                    self._take()

    def _ask(self) -> None:
        if not self._asked and time.monotonic() >= self._due:
            self._asked = True
            self._due = max(self._due + self._interval, time.monotonic())
            self._tree.ask()

    def _until_due(self) -> float:
        """Seconds until there is something to do but to wait for an answer."""
        return 1.0 if self._asked else max(0.0, self._due - time.monotonic())

    def _take(self) -> None:
        found = self._tree.take()
        self._asked = False
        self._came = time.monotonic()
        before = self._now if self._now is not None and is_successor(found, self._now) else None
        seen = self._so_far.add(found)
        self._log.extend(news(seen, self._seen if before is not None else None))
        self._before, self._now, self._seen = before, found, seen

    def _picture(self, width: int, height: int) -> Any:
        from rich.text import Text

        silent = time.monotonic() - self._came
        late = silent > self._interval + _LATE_SECONDS
        note = f"no answer for {silent:.0f} seconds; {_KEYS}" if late else _KEYS
        if self._now is None:
            return Text(f"waiting for the first reading\n{note}")
        picture = Text(no_wrap=True, overflow="crop")
        blocks = screen(self._now, self._before, list(self._log), width=width, height=height, note=note)
        for text, style in styled(blocks, sys.stdout):
            picture.append(text + "\n", style)
        picture.rstrip()
        return picture


@contextlib.contextmanager
def _keys_at_once() -> Iterator[None]:
    """Keys are read as they are pressed and not shown; afterwards the terminal is as it was."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
