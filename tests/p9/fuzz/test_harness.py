"""The harness finds what is wrong: a session that is spoilt on purpose must fail within a few games."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from fusemap.p9 import naming
from fusemap.p9.fids import Fid, Places
from fusemap.p9.locks import Locks
from fusemap.p9.session import Session
from fusemap.p9.wire import WireError
from fusemap.tree import Node, Tree

from ...support import needs
from .harness import Failure, play_bytes

GAMES = 150


def sends_twice(spoil: Callable[..., None]) -> None:
    send = Session.send

    def twice(self: Session, reply: Any, tag: int) -> None:
        send(self, reply, tag)
        send(self, reply, tag)

    spoil(Session, "send", twice)


def sends_too_much(spoil: Callable[..., None]) -> None:
    send = Session.send

    def longer(self: Session, reply: Any, tag: int) -> None:
        send(self, reply, tag)
        self._out.append(b"\0")

    spoil(Session, "send", longer)


def raises(spoil: Callable[..., None]) -> None:
    def failure(self: Session, error: Exception, number: int) -> Any:
        raise error

    spoil(Session, "_failure", failure)


def answers_nothing(spoil: Callable[..., None]) -> None:
    spoil(Session, "_flush", lambda self, message, tag: None)


def keeps_nodes(spoil: Callable[..., None]) -> None:
    spoil(Session, "let_go", lambda self, fid: None)


def keeps_descriptors(spoil: Callable[..., None]) -> None:
    def shut(self: Session, fid: Fid) -> None:
        fid.io = None

    spoil(Session, "shut", shut)


def keeps_places(spoil: Callable[..., None]) -> None:
    spoil(Places, "give_back", lambda self, place: None)


def keeps_locks(spoil: Callable[..., None]) -> None:
    spoil(Locks, "release_fid", lambda self, session, fid: None)
    spoil(Locks, "release_session", lambda self, session: None)


def takes_any_name(spoil: Callable[..., None]) -> None:
    spoil(naming, "checked", lambda name: name)


def climbs(spoil: Callable[..., None]) -> None:
    def above(self: Tree, node: Node, top: Node | None = None) -> Any:
        fd = os.open("..", os.O_PATH | os.O_NOFOLLOW, dir_fd=self.fd(node))
        try:
            return self.adopt(node, b"..", fd)
        finally:
            os.close(fd)

    spoil(Tree, "lookup_parent", above)


def believes_everything(spoil: Callable[..., None]) -> None:
    def unusual(self: Session, *_: object) -> None:
        pass

    spoil(Session, "_unusual", unusual)


@pytest.mark.parametrize(
    "sabotage",
    [
        sends_twice,
        sends_too_much,
        raises,
        answers_nothing,
        keeps_nodes,
        keeps_descriptors,
        keeps_places,
        keeps_locks,
        takes_any_name,
        climbs,
        believes_everything,
    ],
    ids=lambda of: of.__name__,
)
def test_what_is_spoilt_is_found(sabotage: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    needs.root()
    before = set(os.listdir("/proc/self/fd"))
    sabotage(monkeypatch.setattr)
    numbers = random.Random(9)
    try:
        for _ in range(GAMES):
            try:
                play_bytes(numbers.randbytes(800))
            except (Failure, OSError, WireError):
                return
        pytest.fail(f"{GAMES} games and nothing was noticed")
    finally:
        for name in set(os.listdir("/proc/self/fd")) - before:
            with contextlib.suppress(OSError):  # the one by which the list was read
                os.close(int(name))
