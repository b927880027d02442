"""What a walk found, on disk: ten million names do not belong in memory, and only colliding ones are read again.

A *row* is one name in the tree. Rows come in *runs*: a directory, then names in it that are on one device. So a row
itself is nothing but its inode number; device and directory are told once a run, and the names of a run are one text.
A run has at most RUN rows, so that finding one row's name never means to read a million.

Everything is plain arrays in files that have no name any more when they are in use, read through numpy.memmap: what
the system has room for stays in its cache, and it is not ours to manage. However a scan ends, they are gone. They are
in $TMPDIR, and without that not in /tmp but in /var/tmp (file-hierarchy(7)): /tmp is in memory on many a system, and
then nothing would be gained.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fusemap.errors import Refused

Numbers: TypeAlias = npt.NDArray[np.uint64]
Indices: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

RUN: Final = 1024
"""The most rows of a run."""

_KEPT: Final = 1 << 16  # rows in memory before they are written
_CACHED: Final = 256  # runs whose names are kept as a list
_PLACE: Final = "/var/tmp"


def scratch(directory: str | None = None) -> IO[bytes]:
    """A new file without a name in a directory (str, None for the usual one). Raises Refused where that cannot be."""
    with writing(directory):
        return tempfile.TemporaryFile(prefix="fusemap-scan-", dir=_place(directory))


@contextlib.contextmanager
def writing(directory: str | None = None) -> Iterator[None]:
    """A stretch of code that writes to a file of `scratch`. Turns OSError into Refused, with what to do."""
    try:
        yield
    except OSError as error:
        raise Refused(
            f"cannot write down in {_place(directory)} what was found ({error.strerror or error}): set TMPDIR to a "
            f"directory with room, some 100 bytes for each file of the tree"
        ) from error


def _place(directory: str | None) -> str:
    return directory or os.environ.get("TMPDIR") or (_PLACE if os.access(_PLACE, os.W_OK | os.X_OK) else "/tmp")


def discard(file: IO[bytes]) -> None:
    """Closes a file of `scratch`. What could not be written before cannot be now, and nobody will read it."""
    with contextlib.suppress(OSError):
        file.close()


class Chunk(NamedTuple):
    """Some rows, in order: the number of the first, and for each device (index), inode, whether it is a directory."""

    start: int
    device: Indices
    inode: Numbers
    directory: Flags


class Spill:
    """Rows being written, by any number of threads, and read when all are there. Close it, or use `with`.

    `directory` is where the files go, None for the usual place ($TMPDIR). Raises Refused where nothing can be written
    there, here and later.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._lock = threading.Lock()
        self._directory = directory
        self._files = [scratch(directory) for _ in range(5)]
        self._inodes, self._starts, self._devices, self._texts, self._names = self._files
        self._buffers: list[tuple[array[int], IO[bytes]]] = [
            (array("Q"), self._inodes), (array("Q"), self._starts), (array("i"), self._devices),
            (array("Q"), self._texts),
        ]  # fmt: skip
        self._end = 0
        self.rows = 0
        """Rows so far."""
        self.runs = 0
        """Runs so far."""

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the space back."""
        for file in self._files:
            discard(file)

    def add(self, device: int, path: bytes, names: list[bytes], inodes: array[int], first: bool) -> None:
        """Adds names in directory `path` and their inodes, all on `device` (int, an index of the caller's).

        With `first`, the first name is empty and stands for the directory itself; no other name is a directory.
        """
        text = b"\0".join([path, *names]) if names else path
        with self._lock:
            (rows, _), (starts, _), (devices, _), (texts, _) = self._buffers
            starts.append(self.rows << 1 | first)
            devices.append(device)
            texts.append(self._end)
            rows.extend(inodes)
            self.rows += len(inodes)
            self.runs += 1
            self._end += len(text)
            with writing(self._directory):
                self._names.write(text)
                if len(rows) >= _KEPT:
                    self._flush()

    def _flush(self) -> None:
        for buffer, file in self._buffers:
            buffer.tofile(file)
            del buffer[:]

    def rows_of(self, rank: list[int] | None = None) -> Rows:
        """Everything that was added. `rank` gives each device another index, None keeps them."""
        with self._lock:
            with writing(self._directory):
                self._flush()
                for file in self._files:
                    file.flush()
            inodes: Numbers = _mapped(self._inodes, np.uint64)
            starts: Numbers = _mapped(self._starts, np.uint64)
            devices: npt.NDArray[np.int32] = _mapped(self._devices, np.int32)
            texts: Numbers = _mapped(self._texts, np.uint64)
        if rank is not None:
            devices = np.asarray(rank, dtype=np.int32)[devices]
        return Rows(inodes, starts, devices, texts, self._names.fileno(), self._end)


class Rows:
    """All rows, read in chunks; and the path of any of them."""

    def __init__(
        self, inodes: Numbers, starts: Numbers, devices: npt.NDArray[np.int32], texts: Numbers, names: int, end: int
    ) -> None:
        self._inodes = inodes
        self._starts = (starts >> np.uint64(1)).astype(np.int64)
        self._first = (starts & np.uint64(1)).astype(np.bool_)
        self._devices = devices
        self._texts = texts
        self._fd = names
        self._end = end
        self._cache: OrderedDict[int, list[bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._inodes)

    def chunks(self, size: int = 1 << 20) -> Iterator[Chunk]:
        """All rows, `size` (int) at a time."""
        for start in range(0, len(self), size):
            end = min(start + size, len(self))
            low = int(np.searchsorted(self._starts, start, "right")) - 1
            high = int(np.searchsorted(self._starts, end, "left"))
            bounds = np.append(self._starts[low:high], end)
            bounds[0] = start
            device = np.repeat(self._devices[low:high], np.diff(bounds)).astype(np.int64)
            directory = np.zeros(end - start, dtype=np.bool_)
            heads = self._starts[low:high][self._first[low:high]]
            directory[heads[heads >= start] - start] = True
            yield Chunk(start, device, np.asarray(self._inodes[start:end]), directory)

    def path(self, row: int) -> bytes:
        """The path of a row (int), relative to the tree's top, "." for that itself. Raises OSError."""
        run = int(np.searchsorted(self._starts, row, "right")) - 1
        names = self._cache.get(run)
        if names is None:
            begin = int(self._texts[run])
            end = int(self._texts[run + 1]) if run + 1 < len(self._texts) else self._end
            names = self._cache[run] = os.pread(self._fd, end - begin, begin).split(b"\0")
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        directory, name = names[0], names[1 + row - int(self._starts[run])]
        return name if directory == b"." and name else directory + b"/" + name if name else directory


def _mapped(file: IO[bytes], kind: type[Any]) -> Any:
    """The file's contents as an array; an empty file cannot be mapped."""
    if not os.fstat(file.fileno()).st_size:
        return np.empty(0, dtype=kind)
    return np.memmap(file, dtype=kind, mode="r")
