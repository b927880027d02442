"""Mapped memory, and programs, which are run by mapping them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

from ..support.house import Pair, same, tried
from ..support.process import Child

PAGE = mmap.PAGESIZE


def put(path: Path, data: bytes = b"", mode: int = 0o666) -> int:
    """A new file, open for reading and writing."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    os.write(fd, data)
    return fd


def test_memory_shared_between_processes_and_read_back(pair: Pair) -> None:
    data = bytearray(os.urandom(5 * PAGE + 100))

    def work(path: Path) -> list[bytes]:
        fd = put(path / "f", bytes(data))
        with mmap.mmap(fd, 0) as shared, mmap.mmap(fd, 0, access=mmap.ACCESS_COPY) as private:
            private[0:7] = b"PRIVATE"
            shared[PAGE - 3 : PAGE + 3] = b"shared"

            def other() -> None:
                with open(path / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as theirs:
                    theirs[3 * PAGE : 3 * PAGE + 5] = b"other"

            Child(other).result()
            told = [bytes(shared), bytes(private[:10])]
            shared.flush()
        told.append(os.pread(fd, len(data), 0))
        os.close(fd)
        told.append((path / "f").read_bytes())
        return told

    told = same(pair, work)
    expected = bytearray(data)
    expected[PAGE - 3 : PAGE + 3] = b"shared"
    expected[3 * PAGE : 3 * PAGE + 5] = b"other"
    assert told == [bytes(expected), b"PRIVATE" + bytes(data[7:10]), bytes(expected), bytes(expected)]
    assert (pair.host / "f").read_bytes() == expected


def test_mapped_memory_outlives_the_descriptor_and_the_name(pair: Pair) -> None:
    def work(path: Path) -> bytes:
        fd = put(path / "f", b"x" * 2 * PAGE)
        memory = mmap.mmap(fd, 0)
        os.close(fd)
        os.unlink(path / "f")
        memory[PAGE : PAGE + 4] = b"kept"
        memory.flush()
        return memory[PAGE - 1 : PAGE + 5]

    assert same(pair, work) == b"xkeptx"


def test_a_program_can_be_run_and_not_be_written_meanwhile(pair: Pair) -> None:
    def work(path: Path) -> list[Any]:
        import shutil
        import subprocess

        shutil.copy(shutil.which("sleep") or "/bin/sleep", path / "program")
        with subprocess.Popen([path / "program", "60"]) as running:
            told = [tried(lambda: (path / "program").open("r+b"))]
            running.kill()
        return told

    assert same(pair, work) == ["ETXTBSY"]
