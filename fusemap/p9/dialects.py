"""Which requests each dialect has, and who answers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fusemap.p9 import linux, naming, plain, transfer
from fusemap.p9.later import Handler
from fusemap.p9.messages import Tattach, Tauth, Tclunk, Tread, Tremove, Twalk, Twrite
from fusemap.p9.wire import Dialect

_ALL: Final[Mapping[type, Handler]] = {
    Tauth: naming.auth,
    Tattach: naming.attach,
    Twalk: naming.walk,
    Tclunk: naming.clunk,
    Tremove: naming.remove,
    Tread: transfer.read,
    Twrite: transfer.write,
}


def table_of(dialect: Dialect) -> Mapping[type, Handler]:
    """The handlers by request; Tversion and Tflush are the session's own."""
    return {**_ALL, **(linux.HANDLERS if dialect is Dialect.LINUX else plain.HANDLERS)}
