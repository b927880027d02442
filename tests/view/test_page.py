"""The page as a file: nothing of a tree is markup in it, and nothing in it can ask for anything."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from typing import Any

import pytest

from fusemap.view.page import SCRIPTS, page, policy

EVIL = [
    "</script><script>alert(1)</script>", "<!--", "<![CDATA[", "&lt;", "\u2028", "\udcff", "\x00", "{{script}}", "'\"`"
]  # fmt: skip


class Elements(html.parser.HTMLParser):
    """Every element of a page, with its attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes), ""))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(("", {}, ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data

    def all(self, name: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for tag, attributes, text in self.found if tag == name]


def test_data_is_data_whatever_it_says() -> None:
    model = {"names": EVIL, **{name: name for name in EVIL}}
    text = page(model)
    assert text.isascii() or not any(name in text for name in EVIL if not name.isascii())
    text.encode()
    elements = Elements(text)
    (data, script) = elements.all("script")
    assert data[0]["type"] == "application/json"
    assert json.loads(data[1]) == model
    assert not set("<>&\u2028") & set(data[1])
    assert script[0] == {"type": "module"}
    plain = Elements(page({}))
    assert [tag for tag, _, _ in elements.found] == [tag for tag, _, _ in plain.found]
    assert script == plain.all("script")[1]


def test_the_policy_admits_this_script_and_nothing_else() -> None:
    elements = Elements(page({}))
    policies = [given["content"] for given, _ in elements.all("meta") if given.get("http-equiv")]
    assert policies == [policy(False)]
    directives = {name: words for name, *words in (part.split() for part in policy(False).split(";"))}
    assert directives["default-src"] == ["'none'"]
    for name, text in (("script-src", elements.all("script")[1][1]), ("style-src", elements.all("style")[0][1])):
        assert directives[name] == [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"]
    assert "connect-src" not in directives
    assert "unsafe" not in policy(True)
    assert policy(True).endswith("connect-src 'self'")


def test_nothing_is_loaded() -> None:
    text = page({})
    assert re.findall(r"https?://[^\s\"']+", text) == ["http://www.w3.org/2000/svg"]  # a name space
    for _, attributes, _ in Elements(text).found:
        for name, value in attributes.items():
            assert name not in ("src", "style")
            assert not name.startswith("on")
            assert name != "href" or str(value).startswith(("#", "data:,"))
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


@pytest.mark.parametrize("word", ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function("])
def test_the_script_makes_no_markup(word: str) -> None:
    (_, script) = Elements(page({})).all("script")
    assert word not in script[1]


def test_a_live_page_has_an_address_and_no_data() -> None:
    text = page(None, 'a"b&c')
    elements = Elements(text)
    assert elements.all("body")[0][0] == {"data-source": 'a"b&c'}
    assert elements.all("script")[0][1] == "null"
    assert "data-source" not in Elements(page({})).all("body")[0][0]


def test_every_script_is_in_it() -> None:
    text: Any = page({})
    assert len(SCRIPTS) == 7
    for name in ("drawLanes", "drawMaps", "drawTree", "drawLedger", "drawAnswer", "visible", "listen"):
        assert f"function {name}(" in text
