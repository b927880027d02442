"""What stands around every request handler: errors become errnos, and each request is counted and timed."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from fusemap.errors import errno_of
from fusemap.fuse.hidden import Asked
from fusemap.tree.statistics import COUNT, SLOWEST, SUM, now_ns

if TYPE_CHECKING:
    from fusemap.fuse.operations import Operations

_OFTEN: Final = ("lookup", "getattr")
_SELDOM: Final = 31  # of those, one in 32 is timed

NAMES: Final[set[str]] = set()
"""Of all handlers."""

P = ParamSpec("P")
R = TypeVar("R")


def answers(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """The errno boundary: whatever a handler raises becomes the FUSEError that the kernel is sent.

    What is about the hidden directory is answered there, by the function of the same name.

    Every request is counted and timed, as by `Statistics.took`, but without a call. Of those that come most, which
    never wait and take some ten microseconds, only some are timed: reading the clock twice is a few percent of that.

    ENOSYS does not pass: the kernel takes it for "never ask again" (fs/fuse/file.c, xattr.c), and one odd file system
    below would switch a call off for the whole mount.
    """
    name = handler.__name__
    seldom = _SELDOM if name in _OFTEN else 0
    NAMES.add(name)

    @functools.wraps(handler)
    async def guarded(self: Operations, *args: P.args, **kwargs: P.kwargs) -> R:
        row = self.statistics.rows[name]
        row[COUNT] = count = row[COUNT] + 1
        start = 0 if count & seldom else now_ns()
        try:
            answer = await handler(self, *args, **kwargs)
        except Exception as error:
            if type(error) is Asked:
                return await _ask_hidden(self, name, *args, **kwargs)  # type: ignore[no-any-return]
            number = error.errno if type(error) is FUSEError else _number(error, name)
            self.statistics.errors[number] += 1
            raise FUSEError(number) from None
        if start:
            took = now_ns() - start
            row[took.bit_length()] += 1
            row[SUM] += took
            if took > row[SLOWEST]:
                row[SLOWEST] = took
        return answer

    return guarded  # type: ignore[return-value]  # functools.wraps names the first parameter


async def _ask_hidden(operations: Operations, name: str, *args: Any, **kwargs: Any) -> Any:
    """What the hidden directory answers."""
    try:
        return await getattr(operations.hidden, name)(*args, **kwargs)
    except Exception as error:
        number = _number(error, name)
        operations.statistics.errors[number] += 1
        raise FUSEError(number) from None


def _number(error: Exception, name: str) -> int:
    number = errno_of(error, name)
    return errno.EOPNOTSUPP if number == errno.ENOSYS else number
