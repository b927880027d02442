"""What a case works with: a server, a connection to it, and a directory that both sides see."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pytest

from fusemap.p9.messages import Tlcreate, Twalk
from fusemap.p9.wire import Dialect
from fusemap.qid import QID

from ..answers import ServerError
from ..client import Client
from ..served import Served
from .numbers import ENOSYS, EOPNOTSUPP

PATIENCE: Final = 10.0


class Target:
    """The server under test. `ours` says that it is fusemap, of which more can be demanded."""

    def __init__(self, address: str, export: Path, server: Served | None = None) -> None:
        self.address, self.export, self.server = address, export, server
        self.ours = server is not None
        self._aname: bytes | None = None
        self._patience = 0.0 if server else PATIENCE

    def bare(self) -> Client:
        """A connection on which nothing was said yet.

        A foreign server that a case has brought down may be started again by whoever watches over it.
        """
        end = time.monotonic() + self._patience
        while True:
            try:
                return Client(self.address, version=False)
            except OSError:
                if time.monotonic() > end:
                    self._patience = 0
                    raise
                time.sleep(0.02)  # nothing tells when it is there again

    def connect(self, dialect: Dialect = Dialect.LINUX, msize: int = 65536) -> Client:
        """A connection on which the version is agreed; skips the test where the server lacks the dialect."""
        client = self.bare()
        try:
            client.start(dialect, msize)
            return client
        except ServerError as error:
            client.close()
            if self.ours:
                raise
            pytest.skip(str(error))
        except BaseException:
            client.close()
            raise

    def attach(self, client: Client) -> int:
        """Attaches to the export's root by the first name that does: none, "/", the directory's own."""
        if self._aname is not None:
            return client.attach(self._aname)
        names = [b"", b"/", os.fsencode(self.export)]
        for name in names:
            with contextlib.suppress(ServerError):
                fid = client.attach(name)
                self._aname = name
                return fid
        raise AssertionError(f"the server lets nobody attach to any of {names}")

    def mounts(self) -> list[Path]:
        """Where other file systems are mounted directly below the export."""
        return [path for path in sorted(self.export.iterdir()) if path.is_dir() and os.path.ismount(path)]

    def check(self) -> None:
        """Fails when the server has died, or logged an exception."""
        if self.server is None:
            try:
                Client(self.address, version=False).close()
            except OSError as error:
                raise AssertionError(f"the server has gone: {error}") from None
        else:
            assert self.server.alive(), self.server.log()
            self.server.check_log()


class Place:
    """A new directory: `host` on this machine, `fid` on the connection `client`."""

    def __init__(self, target: Target, dialect: Dialect = Dialect.LINUX, below: Path | None = None) -> None:
        self.target = target
        self.dialect = dialect
        self._undo = contextlib.ExitStack()
        self.host = Path(tempfile.mkdtemp(prefix="case-", dir=below or target.export))
        self.host.chmod(0o755)
        self._undo.callback(shutil.rmtree, self.host, ignore_errors=True)
        self.steps = self.host.relative_to(target.export).parts
        try:
            self.client = self.connect()
            self.fid = self.client.walk(self.client.root, *self.steps)
        except BaseException:
            self.close()
            raise

    def __truediv__(self, name: str | bytes) -> Path:
        return self.host / os.fsdecode(name)

    def close(self) -> None:
        """Ends the connections and removes the directory."""
        self._undo.close()

    def connect(self, msize: int = 65536) -> Client:
        """One more connection, attached, closed with the place."""
        client = self.closing(self.target.connect(self.dialect, msize))
        self.target.attach(client)
        return client

    def bare(self) -> Client:
        """A connection on which nothing was said yet."""
        return self.closing(self.target.bare())

    def closing(self, client: Client) -> Client:
        """The client, which is closed with the place."""
        self._undo.callback(client.close)
        return client

    def mounts(self) -> list[Path]:
        """Where the server shows other file systems below the export; skips the test when there are none."""
        shown = []
        for path in self.target.mounts():
            with tempfile.TemporaryDirectory(dir=path) as inner, contextlib.suppress(ServerError):
                self.client.clunk(self.client.walk(self.client.root, path.name, Path(inner).name))
                shown.append(path)
        if not shown:
            pytest.skip("the server shows no other file systems below its export")
        return shown

    def outside(self) -> Path:
        """A file on the host that is not in the export, with the content b"outside"."""
        path = Path(self._undo.enter_context(tempfile.TemporaryDirectory(prefix="outside-"))) / "secret"
        path.write_bytes(b"outside")
        return path

    def file(self, name: str, content: bytes = b"") -> Path:
        """Makes a file on the host."""
        path = self.host / name
        path.write_bytes(content)
        return path

    def walk(self, *names: str | bytes, client: Client | None = None) -> int:
        """A new fid for a file of the place, on `client` if another connection is meant."""
        if client is not None:
            return client.walk(client.root, *self.steps, *names)
        return self.client.walk(self.fid, *names)

    def open(self, *names: str | bytes, flags: int = 0, client: Client | None = None) -> int:
        """A new fid for a file of the place, opened."""
        if client is not None:
            return client.open(client.root, *self.steps, *names, flags=flags)
        return self.client.open(self.fid, *names, flags=flags)

    def create(self, name: bytes, flags: int, mode: int = 0o644) -> int:
        """Makes and opens a file by Tlcreate; its fid."""
        fid = self.walk()
        self.client.call(Tlcreate(fid, name, flags, mode, 0))
        return fid

    def twalk(self, fid: int, *names: bytes) -> tuple[int, tuple[QID, ...]]:
        """One Twalk to a new fid; the fid and the QIDs."""
        new = self.client.new_fid()
        return new, self.client.call(Twalk(fid, new, names)).wqid

    def supported(self, message: Any) -> Any:
        """As Client.call; skips the test when the server says that it lacks this message."""
        try:
            return self.client.call(message)
        except ServerError as error:
            if error.errno in (ENOSYS, EOPNOTSUPP) and not self.target.ours:
                pytest.skip(f"the server has no {type(message).__name__}")
            raise
