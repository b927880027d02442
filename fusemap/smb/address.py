"""Where a share is, as the command line has it: //HOST/SHARE or //HOST:PORT/SHARE."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fusemap.errors import Refused

PORT: Final = 445
_FORM: Final = re.compile(
    r"//(?:\[(?P<six>[^\]/]+)\]|(?P<host>[^/:\[\]]+))(?::(?P<port>[0-9]{1,5}))?/(?P<share>[^/]+)/?"
)


class Address(NamedTuple):
    """A share; `str()` writes it as it is given."""

    host: str
    port: int
    share: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"//{host}{f':{self.port}' if self.port != PORT else ''}/{self.share}"


def parse(word: str) -> Address:
    r"""The address that a word stands for; backslashes are as good as slashes. Raises Refused.

    >>> parse("//127.0.0.1:4450/tree")
    Address(host='127.0.0.1', port=4450, share='tree')
    >>> print(parse(r"\\nas\tree"))
    //nas/tree
    """
    parts = _FORM.fullmatch(word.replace("\\", "/"))
    port = int(parts["port"] or PORT) if parts else 0
    if parts is None or not 0 < port < 65536:
        raise Refused(f"--smb {word}: write //HOST/SHARE or //HOST:PORT/SHARE, for example //127.0.0.1:4450/tree")
    return Address(parts["six"] or parts["host"], port, parts["share"])
