"""Reading what a live tree tells of itself (fusemap.tree.telling), for the verbs that watch one.

A mount is read by opening the files of its hidden directory anew and closing them at once: a descriptor that is kept
would keep the mount busy. A 9P server tells the same under its attach name "ctl", over one connection.
"""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any, Final

from fusemap.cli.mounted import mount_point
from fusemap.errors import Refused

if TYPE_CHECKING:
    from fusemap.view.reading import Reading

DIRECTORY: Final = ".fusemap"
_ADDRESSES: Final = ("tcp:", "unix:", "vsock:")
_CONTROL: Final = "ctl"
_SIGNS: Final = ("pid", "devices", "known_inodes", "collisions_averted", "collisions_real")
_OFTEN: Final = 10
_OFF_A_MOUNT: Final = (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM)


class Gone(Exception):
    """The tree is not shown any more; the text is a sentence that says so."""


class Source:
    """A tree that tells of itself."""

    def one(self, name: str) -> Any:
        """The value in one file. Raises Gone when there is no tree any more, PermissionError."""
        raise NotImplementedError

    def __init__(self) -> None:
        self._last: Reading | None = None
        self._reused = 0

    def close(self) -> None:
        """Lets go of it; a connection is ended."""

    def read(self) -> Reading:
        """A reading. Raises as `one` does.

        Devices and collisions are asked for again where something has changed by which they could be others, and now
        and then in any case: while nothing happens, a mount has one file of it open for a moment.
        """
        from fusemap.view.reading import Reading

        stats = self.one("stats.json")
        self._reused += 1
        if self._last is None or self._reused >= _OFTEN or any(stats[key] != self._last.stats[key] for key in _SIGNS):
            self._reused = 0
            self._last = Reading(stats, self.one("devices.json"), self.one("collisions.json"))
        else:
            self._last = self._last._replace(stats=stats)
        return self._last


def source_of(word: str) -> Source | None:
    """The tree that `word` names, a path on a fusemap mount or a 9P server's address; None for any other path.

    Raises Refused where it may not be watched, or is no tree of fusemap's.
    """
    found: Source
    if word.startswith(_ADDRESSES):
        found = Server(word)
    elif is_mounted(word):
        found = Mount(word)
    else:
        return None
    try:
        found.read()
    except Gone as gone:
        raise Refused(str(gone)) from None
    except PermissionError as error:
        raise Refused(f"{word} may be watched only by root and by who has mounted it") from error
    return found


class Mount(Source):
    """The mount that `path` is on."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path: Final = mount_point(os.path.realpath(path))

    def one(self, name: str) -> Any:
        """See `Source`."""
        try:
            with open(os.path.join(self.path, DIRECTORY, name), "rb") as file:
                return json.load(file)
        except PermissionError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            raise Gone(self._why_not_there()) from None
        except OSError as error:
            raise Gone(f"{self.path} does not answer any more: {error.strerror}") from None
        except ValueError:
            raise Gone(f"{self.path}/{DIRECTORY}/{name} is not what fusemap writes") from None

    def _why_not_there(self) -> str:
        try:
            if is_mounted(self.path):
                return (
                    f"{self.path} shows a {DIRECTORY} of the tree's own instead of fusemap's; rename that on the host"
                )
        except Refused:
            pass
        return f"{self.path} is not mounted any more"


class Server(Source):
    """A 9P server, by its address. Raises Refused where it cannot be reached or has no control names."""

    def __init__(self, address: str) -> None:
        from fusemap.p9.client import Client

        super().__init__()
        self._client = Client(address, _CONTROL)

    def close(self) -> None:
        """See `Source`."""
        self._client.close()

    def one(self, name: str) -> Any:
        """See `Source`."""
        address = self._client.address
        try:
            return json.loads(self._client.read([name.encode()]))
        except Refused as refused:
            raise Gone(str(refused)) from None
        except PermissionError:
            raise
        except (OSError, ValueError):
            raise Gone(f"{address} has no {name} that fusemap wrote; is it another 9P server?") from None


def is_mounted(path: str) -> bool:
    """Whether `path` is on a fusemap mount. Raises Refused where that cannot be found out."""
    try:
        os.getxattr(path, "user.fusemap.device")
    except OSError as error:
        if error.errno in _OFF_A_MOUNT:
            return False
        raise Refused(f"{path}: {error.strerror}") from error
    return True
