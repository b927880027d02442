"""What a handler is, its answer that it must wait, and the work that the server makes of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fusemap.p9.wire import Message
from fusemap.tree.statistics import now_ns

if TYPE_CHECKING:
    from fusemap.p9.fids import File
    from fusemap.p9.session import Session

Handler: TypeAlias = Callable[["Session", Any], Any]
"""Given a session and a T-message: the R-message, or a `Later`. Raises OSError; anything else is a bug."""


class Later:
    """A handler's answer that it must wait: `run` in a thread, then `then` with its result gives the reply.

    `limiter` names the device that is waited for. `effects` is whether it changes anything, so that a flush must wait
    for it. `cancel` asks `run` to come back soon. `file` is used by `run` and must not be closed until it is back.
    `weight` is how many bytes of memory it holds meanwhile.
    """

    __slots__ = ("cancel", "effects", "file", "limiter", "run", "then", "weight")

    def __init__(
        self,
        limiter: str,
        run: Callable[[], Any],
        then: Callable[[Any], Message],
        *,
        effects: bool = True,
        cancel: Callable[[], None] | None = None,
        file: File | None = None,
        weight: int = 0,
    ) -> None:
        self.limiter = limiter
        self.run = run
        self.then = then
        self.effects = effects
        self.cancel = cancel
        self.file = file
        self.weight = weight


class Work:
    """A request under way; see `Later`."""

    def __init__(self, session: Session, tag: int, number: int, later: Later) -> None:
        self.limiter: Final = later.limiter
        self.run: Final = later.run
        self.tag: Final = tag
        self.number: Final = number  # of the message
        self.later: Final = later
        self.flushes: list[int] = []
        self.abandoned = False
        self.began: Final = now_ns()
        self._session = session
        if later.file is not None:
            later.file.users += 1

    def finish(self, result: Any) -> None:
        """`run` has returned `result`."""
        self._session.finished(self, lambda: self.later.then(result))

    def fail(self, error: Exception) -> None:
        """`run` has raised `error`."""

        def again() -> Message:
            raise error

        self._session.finished(self, again)

    def cancel(self) -> None:
        """Asks `run` to come back soon, where it can."""
        if self.later.cancel is not None:
            self.later.cancel()
