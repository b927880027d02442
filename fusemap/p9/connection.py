"""One connection: moves bytes between a channel and a session, and runs the session's work.

A turn (rounds.py) receives once, lets the session handle that and sends the answers, all without waiting. What a turn
cannot finish is left to the connection's own task, and there are no turns until that has caught up: so nothing more is
taken from a client as long as what was answered to him has not gone out, and who does not read is not heard, and holds
no memory but his own answers. Every call that may wait for a disk or a lock is a `Work`, run in a thread (workers.py);
its reply is sent the moment it is there, whatever the connection's task waits for. Where the channel is full, a task
sends the rest.

A work outlives its connection where it must: `Session.close()` asks it to come back, but a thread that hangs on a dead
disk does not. Each work that was taken from a session gets exactly one run() and one finish() or fail(), also after
close(), unless the server is ended by force; what it uses must stay open until then. The connection counts as one until
all of them are back, so that hanging up and coming again gives nobody more than his share.

Of one device, a connection has only as many works in the queue as there are threads; however many it asks for, others
find no more than that before them.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from fusemap.p9.channel import Buffer, Channel
from fusemap.p9.rounds import Rounds
from fusemap.p9.session import Progress
from fusemap.p9.wire import WireError
from fusemap.p9.workers import THREADS_A_DEVICE, Workers

if TYPE_CHECKING:
    from fusemap.p9.later import Work
    from fusemap.p9.session import Session

log = logging.getLogger(__name__)

UNSENT_BYTES: Final = 4 << 20
FIRST_VERSION_SECONDS: Final = 30.0
GONE_SECONDS: Final = 1.0
SELDOM_SECONDS: Final = 60.0


class Seldom:
    """Log lines that clients can cause: each kind once a minute at most, so that nobody fills the log."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def log(self, level: int, form: str, *values: object, error: BaseException | None = None) -> None:
        """Logs a line of the kind that `form` is, if it is time for one."""
        now = time.monotonic()
        if now - self._said.get(form, -math.inf) < SELDOM_SECONDS:
            self._left_out[form] = self._left_out.get(form, 0) + 1
            return
        self._said[form] = now
        left_out = self._left_out.pop(form, 0)
        more = f" ({left_out} more like this in the time before)" if left_out else ""
        log.log(level, form + "%s", *values, more, exc_info=error)


class Shared:
    """What the connections of a server have in common: threads, and the knowledge of each other."""

    def __init__(self, works: trio.Nursery, rest: Callable[[], None]) -> None:
        self.works: Final = works
        self.rounds: Final = Rounds(lambda: self.under_way, self._calm, rest)
        self.asked: Final = self.rounds.asked
        self.workers: Final = Workers(self.rounds)
        self.connections: Final[set[Connection]] = set()
        self.under_way = 0
        self.seldom: Final = Seldom()
        self._all_back = trio.Event()

    def _calm(self) -> bool:
        """Whether every connection, and `workers`, waits for its turn, and no task for a client to take its replies."""
        return self.rounds.watched == len(self.connections) + 1 and not self.works.child_tasks

    def back(self) -> None:
        """A work has finished."""
        self.under_way -= 1
        if not self.under_way:
            self._all_back.set()

    async def until_all_are_back(self) -> None:
        """Returns when no work is under way."""
        while self.under_way:
            self._all_back = trio.Event()
            await self._all_back.wait()


class Connection:
    """Serves `session` on `channel`; closes both."""

    def __init__(self, session: Session, channel: Channel, name: str, shared: Shared) -> None:
        self.name: Final = name
        self._session = session
        self._channel = channel
        self._shared = shared
        self._scope = trio.CancelScope()
        self._sending = trio.Lock()
        self._unsent: list[Buffer] = []
        self._unsent_bytes = 0
        self._under_way = 0
        self._finish = trio.Event()
        self._working: Counter[str] = Counter()  # works in threads, or queued for them, by device
        self._held: deque[Work] = deque()  # works that must wait for one of those, or for replies to be taken
        self._over = False
        self._progress = Progress.HUNGRY
        self._stirred = trio.Event()
        self._failed: Exception | None = None
        self._at_end = False
        self._partial = False  # whether some of a message is still to come
        shared.connections.add(self)

    async def run(self, patience: float = FIRST_VERSION_SECONDS) -> None:
        """Serves it to its end. No version within `patience` seconds ends it. Raises nothing but cancellation."""
        seldom = self._shared.seldom
        self._scope.deadline = trio.current_time() + patience
        try:
            log.debug("%s: connected", self.name)
            with self._scope:
                await self._converse()
            if self._scope.cancelled_caught and not self._session.versioned:
                seldom.log(logging.WARNING, "%s: dropped, since it never said which version it speaks", self.name)
        except _Ended as ended:
            log.debug("%s: %s", self.name, ended)
        except WireError as error:
            seldom.log(logging.WARNING, "%s: dropped: %s", self.name, error)
            self._say_the_last()
        except Exception as error:
            seldom.log(logging.ERROR, "%s: dropped because of a bug", self.name, error=error)
        finally:
            self._close()
        while self._under_way:
            self._finish = trio.Event()
            await self._finish.wait()

    # The conversation -------------------------------------------------------------------------------------------------

    async def _converse(self) -> None:
        rounds, reader = self._shared.rounds, self._channel.reader
        while not self._at_end:
            self._stirred = trio.Event()
            try:
                rounds.watch(reader, self._turn)
                await self._stirred.wait()
            except PermissionError:  # a file: it can be read at any time (epoll_ctl(2))
                while not self._stirred.is_set():
                    self._turn()
                    await trio.lowlevel.checkpoint()
            except OSError as error:
                raise _Ended(f"receiving: {error.strerror}") from error
            finally:
                rounds.unwatch(reader)
            if self._failed is not None:
                raise self._failed
            await self._sent()
            if self._progress is not Progress.HUNGRY:
                await self._catch_up()
        # It has said all it has to say, and may still read.
        while self._under_way:
            self._finish = trio.Event()
            await self._until_finished()
        await self._sent()

    def _turn(self) -> None:
        """Receives once and answers, as far as that goes without waiting; otherwise stirs the task."""
        session = self._session
        try:
            count = self._receive()
            if count < 0:
                return
            if not count:
                self._at_end = True
                self._stir()
                return
            self._shared.asked()
            if not (self._unsent or self._partial):
                frame = session.answer_alone(count)
                if frame is not None:
                    if not self._send((frame,)):
                        self._stir()
                    return
            else:
                session.received(count)
            if not self._advance() or self._progress is not Progress.HUNGRY:
                self._stir()
            missing = session.missing()
            if missing or self._partial:
                self._partial = bool(missing)
                self._channel.expect(missing)
        except Exception as error:
            self._failed = error
            self._stir()
        if session.versioned and self._scope.deadline != math.inf:
            self._scope.deadline = math.inf

    def _stir(self) -> None:
        self._shared.rounds.unwatch(self._channel.reader)
        self._stirred.set()

    def _advance(self) -> bool:
        """Lets the session handle what is there, once; whether all answers could be sent."""
        session = self._session
        self._progress = session.advance()
        for work in session.work():
            self._under_way += 1
            self._shared.under_way += 1
            self._held.append(work)
        if self._progress is Progress.BUSY:
            if not self._under_way:
                raise RuntimeError("the session waits for work and has none")
            self._finish = trio.Event()  # from now on, since some may finish before anybody waits for that
        if self._held:
            self._begin_held()
        return self._send(session.outgoing())

    async def _catch_up(self) -> None:
        """Lets the session handle all that is there, in as many turns as it takes."""
        while self._progress is not Progress.HUNGRY:
            if self._progress is Progress.BUSY:
                await self._until_finished()
            else:
                await trio.lowlevel.checkpoint()
            if not self._advance():
                await self._sent()

    def _receive(self) -> int:
        """How many bytes came; 0 at the end, -1 when there are none for now."""
        try:
            return self._channel.receive(self._session.space())
        except BlockingIOError:
            return -1
        except OSError as error:
            raise _Ended(f"receiving: {error.strerror}") from error

    def _send(self, replies: Sequence[Buffer]) -> bool:
        """Sends them after those that are waiting, as far as it goes at once; whether nothing is left."""
        unsent = self._unsent
        unsent += replies
        while unsent:
            try:
                sent = self._channel.send(unsent)
            except BlockingIOError:
                self._unsent_bytes = sum(map(len, unsent))
                return False
            except OSError as error:
                raise _Ended(f"sending: {error.strerror}") from error
            _pass_over(unsent, sent)
        self._unsent_bytes = 0
        return True

    async def _sent(self) -> None:
        """Returns when everything is sent."""
        async with self._sending:
            while not self._send(()):
                try:
                    await trio.lowlevel.wait_writable(self._channel.writer)
                except trio.ClosedResourceError:
                    raise _Ended("closed") from None
        self._begin_held()

    def _say_the_last(self) -> None:
        """What was answered before it went wrong, if it goes out at once."""
        with contextlib.suppress(_Ended):
            self._send(self._session.outgoing())

    # Work -------------------------------------------------------------------------------------------------------------

    def _begin_held(self) -> None:
        """Begins the works that may begin; the others of a device wait for one of those to finish."""
        if self._unsent_bytes > UNSENT_BYTES and not self._over:  # he does not take the replies that he has
            return
        for _ in range(len(self._held)):
            work = self._held.popleft()
            key = work.limiter
            if key and self._working[key] >= THREADS_A_DEVICE:
                self._held.append(work)
                continue
            self._working[key] += 1
            self._shared.workers.start(key, work.run, partial(self._settle, work))

    def _settle(self, work: Work, result: Any, error: Exception | None) -> None:
        """A work has come back: its reply is sent."""
        self._working[work.limiter] -= 1
        self._under_way -= 1
        self._finish.set()
        self._shared.asked()
        try:
            if error is None:
                work.finish(result)
            else:
                work.fail(error)
            if not self._over and not self._send(self._session.outgoing()):
                self._shared.works.start_soon(self._send_the_rest)
        except _Ended as ended:
            log.debug("%s: %s", self.name, ended)
            self._scope.cancel()
        except Exception as bug:
            self._shared.seldom.log(logging.ERROR, "%s: dropped because of a bug", self.name, error=bug)
            self._scope.cancel()
        self._begin_held()
        self._shared.back()

    async def _send_the_rest(self) -> None:
        try:
            if not self._over:
                await self._sent()
        except _Ended as ended:
            log.debug("%s: %s", self.name, ended)
            self._scope.cancel()

    async def _until_finished(self) -> None:
        """Returns when a work has finished; meanwhile nothing is received, so that an end would not be noticed."""
        finish = self._finish
        while not finish.is_set():
            if self._channel.gone():
                raise _Ended("hung up")
            with trio.move_on_after(GONE_SECONDS):
                await finish.wait()

    def _close(self) -> None:
        self._over = True
        self._shared.connections.discard(self)
        for fd in {self._channel.reader, self._channel.writer}:
            trio.lowlevel.notify_closing(fd)
        self._channel.close()
        try:
            self._session.close()
        except Exception:
            log.exception("%s: bug in closing its session", self.name)
        self._begin_held()


class _Ended(Exception):
    """The other end is closed or lost; the text says how, for those who log everything."""


def _pass_over(parts: list[Buffer], size: int) -> None:
    """Takes the first `size` bytes out of `parts`."""
    whole = 0
    for part in parts:
        if size < len(part):
            break
        size -= len(part)
        whole += 1
    del parts[:whole]
    if size:
        parts[0] = memoryview(parts[0])[size:]
