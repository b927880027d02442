"""A stream cut anywhere, mixed of long and short, read when it pleases the client: every answer comes, and is right.

The client keeps several requests under way, hands the socket pieces of any size, and leaves answers lying for a while.
What is on the file is known at any time, since of each of its parts at most one request is under way.
"""

from __future__ import annotations

import os
import random
import select
from pathlib import Path
from typing import Any, Final

import pytest

from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect, decode, encode

from .client import Client
from .served import Served

PARTS: Final = 8
PART: Final = 1 << 18
SILENCE: Final = 30.0
SIZES: Final = (0, 1, 90, 4_000, 16_384, 32_700, 32_800, 65_536, 131_000, PART)
CUTS: Final = (1, 7, 23, 1_448, 4_096, 32_768, 65_483, 100_000, 1 << 20)


class Stream:
    """`count` requests, as `dice` has it."""

    def __init__(self, client: Client, fid: int, dice: random.Random, count: int) -> None:
        self._client, self._fid, self._dice, self._left = client, fid, dice, count
        self._content = [bytearray(PART) for _ in range(PARTS)]
        self._asked: dict[int, Any] = {}  # by tag, which is the part's number
        self._out, self._in = bytearray(), bytearray()
        self.answered = 0

    def run(self) -> list[bytes]:
        """All of it; what is on the file afterwards."""
        plug = self._client.socket
        plug.setblocking(False)
        while self._left or self._asked:
            self._ask()
            poll = select.poll()
            both = select.POLLIN | select.POLLOUT if self._out else select.POLLIN
            poll.register(plug, self._dice.choice((both, both & ~select.POLLIN)))  # who does not read is not heard
            ready = poll.poll(0)
            if not ready:
                poll.modify(plug, both)
                ready = poll.poll(SILENCE * 1000)
            assert ready, f"no answer in {SILENCE} s to {[type(asked).__name__ for asked in self._asked.values()]}"
            if ready[0][1] & select.POLLOUT:
                cut = self._dice.choice(CUTS)
                del self._out[: plug.send(memoryview(bytes(self._out[:cut])))]
            if ready[0][1] & select.POLLIN:
                got = plug.recv(self._dice.choice(CUTS))
                assert got
                self._in += got
                self._read()
        return [bytes(part) for part in self._content]

    def _ask(self) -> None:
        dice = self._dice
        most = dice.choice((1, 1, 2, PARTS))
        while self._left and len(self._asked) < most and len(self._out) < 1 << 20:
            tag = dice.choice([tag for tag in range(PARTS) if tag not in self._asked])
            size = min(dice.choice(SIZES), self._client.msize - 24)
            start = dice.randrange(PART - size + 1)
            kind = dice.randrange(3)
            message: Any = m.Tgetattr(self._fid, 0x3FFF)
            if kind == 1:
                message = m.Tread(self._fid, tag * PART + start, size)
            elif kind == 2:
                message = m.Twrite(self._fid, tag * PART + start, dice.randbytes(size))
            self._asked[tag] = message
            self._out += encode(message, tag, Dialect.LINUX)
            self._left -= 1

    def _read(self) -> None:
        while len(self._in) >= 4 and len(self._in) >= (size := int.from_bytes(self._in[:4], "little")):
            tag, answer = decode(bytes(self._in[:size]), Dialect.LINUX)
            del self._in[:size]
            asked = self._asked.pop(tag)
            part, start = self._content[tag], getattr(asked, "offset", 0) - tag * PART
            if isinstance(asked, m.Tread):
                assert answer == m.Rread(part[start : start + asked.count])
            elif isinstance(asked, m.Twrite):
                assert answer == m.Rwrite(len(asked.data))
                part[start : start + len(asked.data)] = asked.data
            else:
                assert answer.size == PARTS * PART
            self.answered += 1


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("msize", [8_192, 100_000, 1 << 20])
def test_every_answer_comes(tmp_path: Path, kind: str, msize: int) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(bytes(PARTS * PART))
    listen = "tcp:127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/socket"
    seed = random.randrange(1 << 32)
    with Served(tree, tmp_path, "--state", "none", listen=listen) as server:
        for round_ in range(3):
            with Client(server.address, msize=msize) as client:
                client.attach()
                fid = client.open(client.root, "file", flags=os.O_RDWR)
                stream = Stream(client, fid, random.Random(f"{seed} {round_}"), 300)
                try:
                    content = stream.run()
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}, round {round_}, {stream.answered} answers") from error
            assert (tree / "file").read_bytes() == b"".join(content)
            (tree / "file").write_bytes(bytes(PARTS * PART))
