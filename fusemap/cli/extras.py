"""Libraries that only some verbs need, and that not every installation has."""

from __future__ import annotations

import importlib.util
import shlex
import sys

from fusemap.errors import Refused


def need(module: str, extra: str, why: str, otherwise: str = "") -> None:
    """Raises Refused where `module` cannot be imported; it comes with `extra` of setup.cfg."""
    if importlib.util.find_spec(module) is None:
        # With the Python that runs this: `pip` alone is mostly another one's, or not there.
        raise Refused(f"{why}: {shlex.quote(sys.executable)} -m pip install 'fusemap[{extra}]'{otherwise}")
