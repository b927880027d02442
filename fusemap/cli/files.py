"""Writing what a command was told to write into a file: all of it, or the file stays as it was."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

from fusemap.errors import Refused


def write(name: str, data: bytes) -> None:
    """Writes a file, down to the disk. Raises Refused.

    The new one is made beside it and takes its place, so that a full disk leaves no half of it, and none of the name.
    What is no plain file (/dev/stdout, /dev/null, a pipe) is written to, never replaced; so is a file in a directory in
    which none can be made.
    """
    try:
        before = _status(name)
        special = os.path.abspath(name).startswith(("/dev/", "/proc/"))  # /dev/stdout may be a plain file
        if special or (before is not None and not stat.S_ISREG(before.st_mode)):
            _onto(name, data)
            return
        file = os.path.realpath(name)
        try:
            _beside(file, data, before)
        except PermissionError:
            if before is None:
                raise
            _onto(file, data)
    except OSError as error:
        raise Refused(f"cannot write {name}: {error.strerror}") from error


def _status(name: str) -> os.stat_result | None:
    try:
        return os.stat(name)
    except FileNotFoundError:
        return None


def _onto(name: str, data: bytes) -> None:
    with open(name, "wb") as file:
        file.write(data)


def _beside(name: str, data: bytes, before: os.stat_result | None) -> None:
    beside = os.path.join(os.path.dirname(name), f".fusemap-{secrets.token_hex(8)}")
    try:
        with open(beside, "xb") as file:
            if before is not None:
                # Whoever may read FILE may still do so, and nobody else: names of files are in it.
                with contextlib.suppress(OSError):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
