"""Which devices are mounted beneath an export root now, as far as the mount table tells.

For what is done without walking the tree: listing a table, taking over one that is keyed by st_dev. btrfs subvolumes
that are only directories of another mount are in no mount table; a walk finds them, this does not.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

from fusemap.host.calls import Calls
from fusemap.host.identity import identify
from fusemap.host.mountinfo import MountInfo, contains, mount_table

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TAIL: Final = re.compile(r"(?:#[A-Za-z0-9._+-]+)?(?: at .*)?", re.DOTALL)


class Present(NamedTuple):
    """A device that is mounted: its identity key, its st_dev in the kernel's 64-bit form, and where it was found."""

    key: str
    lasting: bool
    dev: int
    point: str


def present(root: str, names: dict[str, str] | None = None) -> list[Present]:
    """The devices at and beneath directory `root`, that of the root first. `names` are administrators' names by path.

    What cannot be opened is left out. Raises OSError where `root` itself cannot be.
    """
    calls = Calls()
    top = os.fsencode(os.path.realpath(root))
    table = mount_table()
    found = [_look(calls, top, table, names or {})]
    for info in table:
        if info.point != top and contains(top, info.point):
            try:
                found.append(_look(calls, info.point, table, names or {}))
            except OSError:
                continue
    return found


def device_key_of(devices: list[Present], dev: int) -> str | None:
    """The key of the device with this st_dev, None where there is none, or more than one has its key."""
    keys = {device.key for device in devices if device.dev == dev}
    if len(keys) != 1:
        return None
    (key,) = keys
    return key if len({device.dev for device in devices if device.key == key}) == 1 else None


def base_key(key: str) -> str:
    """A device's key without what tells copies and bind mounts apart: `KEY#NAME at PATH` is mounted where KEY is.

    >>> base_key("uuid:6b7c#copy at srv/a"), base_key("uuid:6b7c")
    ('uuid:6b7c', 'uuid:6b7c')
    """
    for at in (match.start() for match in re.finditer("[# ]", key)):
        if _TAIL.fullmatch(key, at):
            return key[:at]
    return key


def _look(calls: Calls, path: bytes, table: list[MountInfo], names: dict[str, str]) -> Present:
    fd = os.open(path, _DIRECTORY)
    try:
        st = calls.statx(fd, b"")
        mount = calls.mount_id(fd)
        kind = next((info.kind for info in table if info.id == mount), "")
        point = os.fsdecode(path)
        identity = identify(fd, st, kind, names.get(point))
    finally:
        os.close(fd)
    return Present(identity.key, identity.lasting, st.dev, point)
