"""Which server the suite runs against, and the connections that its cases start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemap.p9.wire import Dialect

from ...conftest import TEST_SECONDS
from ...support.stage import Stage, watchdog
from .. import client
from ..conftest import build
from ..served import Served
from .place import Place, Target


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("9P conformance")
    group.addoption("--server", metavar="ADDRESS", help="tcp:HOST:PORT or unix:PATH of a server that runs already")
    group.addoption("--export", metavar="DIR", help="the directory that it exports, as this machine sees it")
    group.addoption("--seconds", metavar="N", type=float, help="how long an answer may take")


@pytest.fixture(scope="package")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The server under test."""
    # Defaults, because the options are there only when pytest is pointed at this directory.
    address, export = (request.config.getoption(name, None) for name in ("--server", "--export"))
    client.SECONDS = request.config.getoption("--seconds", None) or client.SECONDS
    if address:
        assert export, "--server needs --export DIR, the exported directory as this machine sees it"
        yield Target(address, Path(export).resolve())
        return
    stage = Stage()
    try:
        with watchdog.limit(TEST_SECONDS):
            source = build(stage)
            server = Served(source, stage.path)
        stage.after(server.close)
        yield Target(server.address, source, server)
    finally:
        stage.close()


@pytest.fixture(autouse=True)
def healthy(target: Target) -> Iterator[None]:
    """No case may bring the server down, or make it log an exception."""
    yield
    target.check()


@pytest.fixture
def place(target: Target) -> Iterator[Place]:
    """A new directory and a connection that speaks 9P2000.L."""
    made = Place(target)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=[Dialect.BASE, Dialect.UNIX], ids=["9P2000", "9P2000.u"])
def plain(target: Target, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A new directory and a connection that speaks 9P2000, then one that speaks 9P2000.u."""
    made = Place(target, request.param)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def unix(target: Target) -> Iterator[Place]:
    """A new directory and a connection that speaks 9P2000.u."""
    made = Place(target, Dialect.UNIX)
    try:
        yield made
    finally:
        made.close()
