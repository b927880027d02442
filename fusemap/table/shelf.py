"""Where pieces of a table lie: the one interface behind which attributes, a database and plain memory look alike.

A shelf holds small byte strings under names. It promises one thing: `put` replaces a whole piece or nothing, also when
the process is killed in the middle. What pieces there are, and in which order they are written so that a table is
whole after every single step, is `Store`'s affair and written once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final

_PATIENCE: Final = 30.0  # seconds; whoever holds a lock needs milliseconds
_LONGEST_NAP: Final = 0.01


class NoRoom(OSError):
    """The shelf cannot take a piece, and never will: too full, too small, or not writable. `errno` says which."""


class Shelf(ABC):
    """Named pieces of bytes, replaced one at a time.

    kind    which store it is: xattr, sqlite or none
    where   what an administrator would call the place
    sizes   how long pieces may be, in bytes; the first that the place takes is used
    limit   how long a snapshot may be in all, in bytes
    """

    kind: str
    where: str
    sizes: tuple[int, ...]
    limit: int

    @abstractmethod
    def names(self) -> set[str]:
        """The names of all pieces. Raises OSError, DamagedTable."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """A piece, None where there is none. Raises OSError, DamagedTable."""

    @abstractmethod
    def put(self, name: str, data: bytes, durable: bool = True) -> None:
        """Make or replace a piece. If `durable`, it and all before it survive a power cut once this returns.

        Raises NoRoom where the place cannot hold it, and OSError.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a piece, if it is there. Raises OSError."""

    @abstractmethod
    def lock(self, shared: bool = False) -> AbstractContextManager[None]:
        """A context in which no other process changes this shelf (`shared`: none changes it, others may read).

        Raises OSError, ETIMEDOUT where another process never lets go.
        """

    def changed(self) -> bool:
        """Whether anybody else may have changed a piece since this was last asked."""
        return True

    def witness(self) -> tuple[int, int] | None:
        """The generation and log length in bytes that were reached for certain, None where nothing tells."""
        return None

    def testify(self, generation: int, length: int) -> None:  # noqa: B027 - most shelves have no such place
        """Note what has been reached, at a place where it is not lost together with the pieces."""

    def close(self) -> None:  # noqa: B027 - and nothing to let go of
        """Let go of descriptors."""

    def piece(self, name: str) -> str:
        """What an administrator would call a piece."""
        return f"piece {name} of {self.where}"


class MemoryShelf(Shelf):
    """Pieces in a dict: the store that forgets, `none`. `pieces` may be given, to share or to look at."""

    kind = "none"
    where = "memory"
    sizes = (1 << 30,)
    limit = 1 << 40

    def __init__(self, pieces: dict[str, bytes] | None = None) -> None:
        self.pieces = {} if pieces is None else pieces

    def names(self) -> set[str]:
        return set(self.pieces)

    def get(self, name: str) -> bytes | None:
        return self.pieces.get(name)

    def put(self, name: str, data: bytes, durable: bool = True) -> None:
        self.pieces[name] = data

    def remove(self, name: str) -> None:
        self.pieces.pop(name, None)

    def lock(self, shared: bool = False) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


@contextlib.contextmanager
def flock(fd: int, where: str, shared: bool = False, patience: float = _PATIENCE) -> Iterator[None]:
    """A context in which `fd`'s file is locked by flock(2), for processes and for objects within one alike.

    The kernel takes the lock back when its holder dies, however it dies, so nothing is left to clean up. Anybody who
    may read the file may also lock it; hence the wait ends after `patience` seconds with OSError, ETIMEDOUT.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    end = time.monotonic() + patience
    nap = 0.0002
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                raise OSError(errno.ETIMEDOUT, f"another process keeps {where} locked") from None
        time.sleep(nap)
        nap = min(nap * 2, _LONGEST_NAP)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def reopen(fd: int) -> int:
    """A readable descriptor of the directory behind `fd`, which may be O_PATH; a file description of its own.

    Raises OSError.
    """
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
