"""Asking a fusemap mount through its virtual attributes (fusemap.fuse.virtual)."""

from __future__ import annotations

import errno
import os

from fusemap.errors import Refused


def attribute(path: str, name: str) -> str:
    """A virtual attribute of `path`. Raises Refused where there is none, that is, on no fusemap mount."""
    try:
        return os.getxattr(path, f"user.fusemap.{name}", follow_symlinks=False).decode()
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
            raise Refused(f"{path} is not on a fusemap mount; mount its tree with fusemap mount first") from error
        raise Refused(f"{path}: {error.strerror}") from error
