"""The page: a template, a style sheet and a script, which become one HTML file that needs nothing else.

Names of files are the enemy's: one can be "</script>" or have characters that turn the rest of a line around. So the
tree's data is in the file as JSON in which no character means anything to HTML, in an element that browsers do not
run; and the script makes text of it, never markup. Should that fail all the same, the Content-Security-Policy lets
nothing run but the script that is meant, known by its hash, and lets nothing be loaded or sent anywhere.

A served page has no data in it but the address of a live source, and may connect to its own origin for that.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any, Final

SCRIPTS: Final = ("text.js", "schemes.js", "lanes.js", "map.js", "tree.js", "ledger.js", "main.js")
"""In this order they are one script."""

_ESCAPED: Final = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}
_MARK: Final = re.compile(r"\{\{(\w+)\}\}")


def page(model: dict[str, Any] | None, source: str | None = None) -> str:
    """The page as HTML, all of it ASCII but its own words: UTF-8 can always hold it.

    `model` is what to show (fusemap.view.model), None where all comes from `source`, the address of a live source
    relative to the page's.
    """
    parts = {
        "policy": html.escape(policy(source is not None)),
        "style": _style(),
        "script": _script(),
        "source": "" if source is None else f' data-source="{html.escape(source)}"',
        "model": json.dumps(model, separators=(",", ":")).translate(_ESCAPED),
    }
    return _MARK.sub(lambda mark: parts[mark[1]], _asset("page.html"))


@cache
def policy(live: bool) -> str:
    """The Content-Security-Policy, as in the page; a server of a `live` page sends it as a header too.

    Source: the W3C's "Content Security Policy Level 3".
    """
    directives = [
        "default-src 'none'",
        f"script-src {_hash(_script())}",
        f"style-src {_hash(_style())}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if live:
        directives.append("connect-src 'self'")
    return "; ".join(directives)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _script() -> str:
    return "\n" + "\n".join(_asset(name) for name in SCRIPTS)


@cache
def _style() -> str:
    return "\n" + _asset("page.css")


def _asset(name: str) -> str:
    return files("fusemap.view").joinpath("assets", name).read_text(encoding="utf-8")
