"""What a handler is, and its answer that it must wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from fusemap.p9.wire import Message

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
