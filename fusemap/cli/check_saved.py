"""Numbers of another day: what `fusemap check --save` writes and `--against` reads.

Of a mounted tree they are st_ino, of a share the ids that its clients see. Both are the same where all is well, so a
file that was saved from the one may be held against the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from fusemap.cli import files
from fusemap.errors import Refused

_FORMAT: Final = "fusemap-numbers"


def read(file: str) -> dict[str, int]:
    """Numbers by path, relative to the tree. Raises Refused."""
    try:
        with open(file, encoding="utf-8") as stream:
            data = json.load(stream)
        numbers = data["numbers"]
        if data["format"] != _FORMAT or not all(isinstance(number, int) for number in numbers.values()):
            raise ValueError("not numbers")
    except OSError as error:
        raise Refused(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Refused(f"{file} was not written by fusemap check --save; save the numbers first") from error
    return dict(numbers)


def save(file: str, numbers: Mapping[str, int]) -> None:
    """Writes them. Raises Refused."""
    files.write(file, json.dumps({"format": _FORMAT, "numbers": numbers}).encode())
