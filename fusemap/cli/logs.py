"""Where log lines go: standard error in the foreground, syslog or a file in the background."""

from __future__ import annotations

import errno
import logging
import logging.handlers
import os
from typing import Final

from fusemap.errors import Refused

_SYSLOG: Final = "/dev/log"


def set_up(file: str | None, verbose: bool, foreground: bool) -> None:
    """Directs all logging. Raises Refused when `file` cannot be written."""
    handler: logging.Handler
    plain = "%(levelname)s: %(message)s"
    if file is not None:
        try:
            handler = logging.FileHandler(file)
        except OSError as error:
            raise Refused(f"cannot write the log {file}: {error.strerror}") from error
        plain = "%(asctime)s " + plain
    elif foreground:
        handler = logging.StreamHandler()
    elif os.path.exists(_SYSLOG):
        handler = logging.handlers.SysLogHandler(_SYSLOG, logging.handlers.SysLogHandler.LOG_DAEMON)
        plain = f"fusemap[{os.getpid()}]: %(message)s"
    else:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter(plain))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("pyfuse3").addFilter(_is_news)
    for noisy in ("pyfuse3", "trio"):
        logging.getLogger(noisy).setLevel(logging.INFO if verbose else logging.WARNING)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of pyfuse3's tells of an error: an answer that nobody waits for any more (ENOENT) is none."""
    return not record.getMessage().endswith(f"fuse_reply_* failed with {os.strerror(errno.ENOENT)}")
