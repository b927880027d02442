"""The error tree.

Everything that fusemap itself raises descends from `FusemapError`, so that a caller can tell our refusals
from the operating system's. An error that a client must see as an errno is an `OSError` as well: the front
ends then send it like any other.
"""

from __future__ import annotations

import errno
import logging

__all__ = ["DamagedTable", "FusemapError", "MappingExhausted", "Refused", "errno_of"]

log = logging.getLogger(__name__)


class FusemapError(Exception):
    """The root of every error that fusemap raises on its own account."""


class MappingExhausted(FusemapError, OSError):
    """No number is left for a file that has none yet. `errno` is always ENFILE.

    Files that already have a number keep it and go on working. Source: qid_path_fullmap() in QEMU's
    hw/9pfs/9p.c, which fails with the same errno.
    """

    def __init__(self, message: str = "no number is left for this file") -> None:
        """Keep `message` (str, one sentence) as `strerror`."""
        super().__init__(errno.ENFILE, message)

    def __reduce__(self) -> tuple[type[MappingExhausted], tuple[str]]:
        # OSError would hand (errno, strerror) back to __init__, which takes the message alone.
        return type(self), (self.strerror or "",)


class DamagedTable(FusemapError, OSError):
    """A stored table is not as it was written. `errno` is always EIO; the message names the damage and the ways out.

    Nothing is erased and no number is made up in its place: files that have no number yet get none until an
    administrator has decided, the others keep theirs.
    """

    def __init__(self, message: str) -> None:
        """Keep `message` (str, one sentence) as `strerror`."""
        super().__init__(errno.EIO, message)

    def __str__(self) -> str:
        return self.strerror or ""

    def __reduce__(self) -> tuple[type[DamagedTable], tuple[str]]:
        return type(self), (self.strerror or "",)


class Refused(FusemapError):
    """What was asked for cannot be done as asked; the message is one sentence that says what to do instead."""


def errno_of(error: Exception, doing: str) -> int:
    """The errno (positive int) that a front end sends for `error`; `doing` names the request for the log.

    An OSError passes as it is. Anything else is a bug of ours: it is logged with its traceback and becomes EIO, so that
    one request fails and the mount or connection goes on.
    """
    if isinstance(error, OSError) and error.errno:
        if isinstance(error, MappingExhausted):
            _log_exhausted(error)
        return error.errno
    log.error("bug in %s; the caller gets EIO", doing, exc_info=error)
    return errno.EIO


_exhausted_logged = False


def _log_exhausted(error: MappingExhausted) -> None:
    global _exhausted_logged
    if not _exhausted_logged:
        _exhausted_logged = True
        log.error("%s; new files cannot be shown until the tree is exported anew", error.strerror)
