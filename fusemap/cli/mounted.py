"""Asking a fusemap mount through its virtual attributes (fusemap.fuse.virtual)."""

from __future__ import annotations

import errno
import json
import os
from typing import TypedDict

from fusemap.errors import Refused


class Located(TypedDict):
    """What a number stands for: a device's identity and an inode number there."""

    number: int
    device: str
    inode: int


def file_of(path: str, number: int) -> Located:
    """The host device and inode of `path`, whose st_ino is `number`. Raises Refused off a fusemap mount."""
    try:
        device = os.getxattr(path, "user.fusemap.device", follow_symlinks=False).decode()
        inode = int(os.getxattr(path, "user.fusemap.inode", follow_symlinks=False))
        return {"number": number, "device": device, "inode": inode}
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
            raise Refused(f"{path}: {error.strerror}") from error
    # Links and special files have no user attributes (xattr(7)), unreadable files show none: ask for the number.
    try:
        found = locate(mount_point(path), number)
    except Refused:
        found = None
    if found is None:
        raise Refused(f"{path} is not on a fusemap mount; mount its tree with fusemap mount first")
    return found


def locate(mount_point: str, number: int) -> Located | None:
    """What `number` stands for on the fusemap mount at `mount_point`; None if it was never given. Raises Refused."""
    try:
        os.getxattr(mount_point, "user.fusemap.device")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
            raise Refused(f"{mount_point} is not a fusemap mount; mount a tree with fusemap mount first") from error
        raise Refused(f"{mount_point}: {error.strerror}") from error
    try:
        answer: Located = json.loads(os.getxattr(mount_point, f"user.fusemap.locate.{number}"))
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise Refused(f"{mount_point}: {error.strerror}") from error
    return answer


def mount_point(path: str) -> str:
    """Where the file system is mounted that the absolute or relative `path` is on; a link is not followed."""
    path = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path))
    while not os.path.ismount(path) and path != "/":
        path = os.path.dirname(path)
    return path
