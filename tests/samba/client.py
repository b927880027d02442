"""A second opinion: the ids that smbprotocol's own high-level client tells, asked in its own way."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import smbclient

from ..support.process import ROOT, User
from .smbd import HOST, Smbd


class Client:
    """A connection of its own to one share. Names are separated by slashes; "" is the share's root."""

    def __init__(self, smbd: Smbd, share: str, user: User = ROOT) -> None:
        self._connections: dict[str, Any] = {}
        self._share = rf"\\{HOST}\{share}"
        self._words: dict[str, Any] = {
            "username": user.name,
            "password": smbd.password,
            "port": smbd.port,
            "connection_cache": self._connections,
        }
        self.name = uuid.uuid4().hex[:8]

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        smbclient.reset_connection_cache(connection_cache=self._connections)

    def opened(self, name: str) -> int:
        """The id by opening it."""
        return int(self.call(smbclient.lstat, name).st_ino)

    def listed(self, name: str) -> dict[str, int]:
        """The ids in a directory's listing, by name."""
        return {entry.name: int(entry.inode()) for entry in self.call(smbclient.scandir, name)}

    def write(self, name: str, data: bytes) -> None:
        """Makes a file, or overwrites one."""
        with self.call(smbclient.open_file, name, mode="wb") as file:
            file.write(data)

    def call(self, function: Callable[..., Any], *names: str, **words: Any) -> Any:
        """One of smbclient's functions on files of the share."""
        paths = [self.path(name) for name in names]
        return function(*paths, **self._words, **words)

    def path(self, name: str) -> str:
        """A file's whole path."""
        return self._share + "\\" + name.replace("/", "\\")
