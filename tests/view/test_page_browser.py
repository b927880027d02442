"""The page in a real browser: what an administrator sees, hears and presses, and that nothing leaves.

Each test opens the page anew; `shown` checks that it asked for nothing but itself and that the browser had nothing to
complain of.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from fusemap.census import SCHEMES, Census, Unreadable
from fusemap.view import hilbert
from fusemap.view.model import model
from fusemap.view.page import page as html_of

from ..support.browser import Browser
from .pretend import Disk, many, pretended
from .shown import END, ENTER, HOME, LEFT, RIGHT, TAB, Page

SMALL: Final = [
    Disk(b".", 40), Disk(b"data", 60, 64, "xfs"), Disk(b"vm/alice", 35, 256), Disk(b"vm/bob", 35, 256, lasting=False)
]  # fmt: skip
EVIL: Final = [
    b"script><img src=x onerror=document.title='hacked'>", b"<!--", b"\xff\xfe", "a\u202egpj.exe".encode(),
    b"new\nline", b"\x1b[31m", b"a&amp;b\"'", "\u2028".encode(), b"{{model}}", b"w" * 250,
    "\u0627\u0644\u0639".encode(), b" \t",
]  # fmt: skip

Opener = Callable[..., Page]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes the page of a made-up tree, once."""
    directory = tmp_path_factory.mktemp("pages")
    trees: dict[str, Callable[[], Census]] = {
        "small": lambda: pretended(SMALL),
        "one": lambda: pretended([Disk(b".", 500)]),
        "none": lambda: pretended([Disk(b".", 200), Disk(b"b", 300, 100_000)]),
        "evil": lambda: pretended(
            [Disk(b".", 1), Disk(b"in<", 1, 7)], [Unreadable(b"<b>\xff", "Permission denied")], EVIL, "/srv/\udcff<i>"
        ),
        "many": lambda: pretended(many(3000, 60_000)),
        "million": lambda: pretended(many(6, 1_000_000)),
    }

    def path(name: str) -> Path:
        file = directory / f"{name}.html"
        if not file.exists():
            with trees[name]() as census:
                file.write_text(html_of(model(census)))
        return file

    return path


@pytest.fixture
def shown(browser: Browser, pages: Callable[[str], Path]) -> Iterator[Opener]:
    """Opens a page in a desktop's window, in light colours unless told otherwise."""

    def opened(name: str, width: int = 1280, colours: str = "light", motion: str = "reduce") -> Page:
        browser.prefer(prefers_color_scheme=colours, prefers_reduced_motion=motion)
        browser.resize(width, 800)
        browser.open(pages(name))
        addresses.append(pages(name).as_uri())
        return Page(browser)

    addresses: list[str] = []
    yield opened
    assert browser.requests() == addresses[-1:]
    assert browser.complaints() == []


def test_the_answer_is_on_top(shown: Opener) -> None:
    page = shown("small")
    assert page.text("h1") == "70 of 170 files would be mistaken for one another"
    assert page.text("#root") == "/srv/tree"
    assert "4 devices" in page.text("#because")
    assert page.texts("#harms dt b") == ["2", "0", "68"]
    for word in ("find", "EIO", "rsync -H"):
        assert word in page.text("#harms")
    assert page.text("#example") == "For example, /vm/alice/ and /vm/bob/ are both number 256."
    assert "fusemap mount /srv/tree MNT" in page.text("#remedy")


def test_the_slider_goes_from_scheme_to_scheme_by_keys(shown: Opener) -> None:
    page = shown("small")
    keys = page.browser.press
    page.browser.script("document.getElementById('slider').focus()")
    assert page.attribute("#slider", "aria-valuetext") == "raw: 70 files share 35 numbers."
    assert page.text("#said") == "raw: ✕ 70 files share 35 numbers."
    assert page.text("#before-title") == "Before: raw"
    assert page.text("#after-title") == "After: suffix"
    for name in SCHEMES[1:]:
        keys(RIGHT)
        assert page.attribute("#slider", "aria-valuetext").startswith(f"{name}: ")
        assert page.text("#after-title") == f"After: {name}"
        assert page.text("#scheme-rows tr.now th").splitlines()[0] == name
        assert page.text("#about-title") == f"What {name} is"
        assert page.focused() == "slider"
        sign = "✕" if name == "xor" else "✓"
        assert page.text("#said").startswith(f"{name}: {sign} ")
    keys(HOME)
    assert page.text("#said").startswith("raw: ")
    keys(END, LEFT)
    assert page.text("#said").startswith(f"{SCHEMES[-2]}: ")
    page.browser.script("document.querySelector('#stops span').click()")
    assert page.text("#said").startswith("raw: ")


def test_the_ledger_can_be_searched(shown: Opener) -> None:
    page = shown("small")
    assert page.text("#ledger-count") == "35 numbers shared by 70 files."
    rows = page.texts("#ledger-rows tr")
    assert len(rows) == 20
    first = " ".join(rows[0].split())
    assert first == "256 directories /vm/alice/ device 2, inode 256 /vm/bob/ device 3, inode 256"
    assert page.text("#ledger-more") == "Show 15 more numbers"
    page.browser.script("document.getElementById('ledger-more').focus()")
    page.browser.press(ENTER)
    assert page.focused() == "ledger-rows"
    assert len(page.texts("#ledger-rows tr")) == 35
    assert not page.seen("#ledger-more")
    for words, want in (
        ("BOB file-27", 10), ("bob nowhere", 0), ("inode 256", 1), ("288", 1), ("device 3", 35), ("/data", 0), ("", 20)
    ):  # fmt: skip
        page.search(words)
        assert len(page.texts("#ledger-rows tr")) == min(want, 20), words
        if words:
            assert page.text("#ledger-count") == f"{want} of the 35 numbers listed here match."
    page.browser.script(
        "const kind = document.getElementById('kind'); kind.value = 'loop'; kind.dispatchEvent(new Event('input'))"
    )
    assert len(page.texts("#ledger-rows tr")) == 1
    page.choose("suffix")
    assert "nothing to list" in page.text("#ledger-about")
    assert not page.seen("#search")
    assert not page.seen("#ledger-table")


def test_the_maps_show_every_cell(shown: Opener, pages: Callable[[str], Path]) -> None:
    page = shown("small")
    text = pages("small").read_text()
    found = json.loads(text.partition('id="model">')[2].partition("</script>")[0])
    schemes = {scheme["name"]: scheme for scheme in found["schemes"]}
    block, nothing = (237, 234, 227), (0, 0, 0)
    for canvas, name, devices in (("before", "raw", []), ("after", "suffix", found["devices"]["listed"])):
        side, pixels = page.browser.script(
            "const canvas = document.getElementById(arguments[0]);"
            "const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
            "const cell = canvas.width / 64, found = [];"
            "for (let row = 0; row < 64; row += 1) for (let column = 0; column < 64; column += 1) {"
            "  const at = 4 * (Math.floor((row + 0.5) * cell) * canvas.width + Math.floor((column + 0.5) * cell));"
            "  found.push([data[at], data[at + 1], data[at + 2]]); }"
            "return [canvas.width, found]", canvas
        )  # fmt: skip
        assert side >= 300
        (level,) = schemes[name]["map"]
        names, hits = (level[key].ljust(hilbert.CELLS, "0") for key in ("names", "colliding"))
        blocks = [hilbert.block(bits) for device in devices for bits in device["affixes"]]
        wrong = 0
        for at in range(hilbert.CELLS):
            column, row = hilbert.place(hilbert.ORDER, at)
            x, y = (column + 0.5) / 64, (row + 0.5) / 64
            inside = any(box.x < x < box.x + box.width and box.y < y < box.y + box.height for box in blocks)
            red, green, blue = pixels[64 * row + column]
            if hits[at] != "0":
                fits = red > 150 and green < 110
            elif names[at] != "0":
                fits = max(red, green, blue) < 110
            else:
                fits = (red, green, blue) == (block if inside else nothing)
            wrong += not fits
        assert wrong < 40, name  # under the blocks' outlines and numbers
        assert page.attribute(f"#{canvas}", "data-colliding") == str(sum(letter != "0" for letter in hits))
        assert ("in 35 of them" in page.attribute(f"#{canvas}", "aria-label")) == (name == "raw")
    assert page.attribute("#after", "data-blocks") == "4"


def test_lanes_are_marked_by_more_than_red(shown: Opener) -> None:
    page = shown("small")
    assert [text.split() for text in page.texts("#lane-list li")] == [
        ["0", "/", "(the", "top)", "none"], ["1", "/data", "none"], ["2", "/vm/alice", "35", "collide"],
        ["3", "/vm/bob", "35", "collide"],
    ]  # fmt: skip
    bars = "return [...document.querySelectorAll('#lane-list li')].map(li => li.querySelectorAll('.bar-bad').length)"
    counts = page.browser.script(bars)
    assert counts[:2] == [0, 0]
    assert counts[2] == counts[3] > 5
    assert "hatch" in page.style(".bar-bad", "fill")
    page.choose("suffix")
    assert page.browser.script(bars) == [0, 0, 0, 0]


def test_the_tree_of_suffixes(shown: Opener) -> None:
    page = shown("small")
    assert page.texts("#tree-rows .bits") == ["1", "010", "110", "00100", "…000"]
    assert page.texts("#tree-rows .n") == ["1/2", "1/8", "1/8", "1/32", ""]
    assert "78.1 %" in page.text("#budget-note")
    assert "65,531 left" in page.text("#budget-note")
    assert [row.split("\t")[6] for row in page.texts("#device-rows tr")] == ["1", "010", "110", "00100"]
    assert "until it is unmounted" in page.texts("#device-rows tr")[3]


def test_everything_is_reached_by_keys_and_seen(shown: Opener) -> None:
    page = shown("small")
    order = []
    for _ in range(30):
        page.browser.press(TAB)
        order.append(page.focused())
        if order[-1] == "BODY":
            break
        outline = page.browser.script("const style = getComputedStyle(document.activeElement);"
                                      "return [style.outlineStyle, parseFloat(style.outlineWidth)]")  # fmt: skip
        assert outline[0] != "none", order[-1]
        assert outline[1] >= 1, order[-1]
    for name in ("theme", "slider", "search", "kind", "ledger-more", "wide"):
        assert name in order
    assert order[:3] == ["skip"] * 3
    page = shown("small")
    page.browser.press(TAB)
    assert page.browser.script("return document.activeElement.getBoundingClientRect().left") >= 0
    page.browser.press(TAB, ENTER)
    page.browser.press(TAB)
    assert page.focused() == "slider"


def luminance(colour: str) -> float:
    """Relative luminance as in WCAG 2.2."""
    numbers = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in numbers
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_light_and_dark(shown: Opener, colours: str) -> None:
    page = shown("small", colours=colours)
    paper = page.style("html", "backgroundColor")
    assert (luminance(paper) < 0.1) == (colours == "dark")
    for selector in ("h1", "#because", ".aside p", ".bad", "#stops span", ".note", "th", ".at", "#harms .none"):
        assert contrast(page.style(selector, "color"), paper) >= 4.5, selector
    assert contrast(page.style(".tag.loop", "color"), page.style(".tag.loop", "backgroundColor")) >= 4.5
    assert contrast(page.style(".bar", "fill"), paper) >= 3
    assert page.text("#theme") == "Colours: system"
    for name, dark in (("light", False), ("dark", True), ("system", colours == "dark")):
        page.click("#theme")
        assert page.text("#theme") == f"Colours: {name}"
        assert (luminance(page.style("html", "backgroundColor")) < 0.1) == dark
    page.browser.script("document.getElementById('theme').click()")
    corner = page.browser.script(
        "return [...document.getElementById('after').getContext('2d').getImageData(9, 9, 1, 1).data]"
    )
    assert corner[3] == 0  # room that is left: the ground of the page shows through, in the colours of the day
    dots = page.browser.script(
        "return [...document.getElementById('before').getContext('2d').getImageData(0, 0, 300, 300).data]"
    )
    assert max(dots[0::4]) > 200 if colours == "dark" else min(dots[0::4]) < 40


@pytest.mark.parametrize("name", ["small", "evil", "many", "none"])
def test_a_phone(shown: Opener, name: str) -> None:
    page = shown(name, width=360)
    assert page.width() <= 360
    for scheme in ("suffix", "xor"):
        page.choose(scheme)
        assert page.width() <= 360
    widest = page.browser.script(
        "return Math.max(...[...document.querySelectorAll('main h1, main p, main canvas, #ledger td, #tree-rows li')]"
        ".filter(one => one.checkVisibility() && !one.closest('.wide'))"
        ".map(one => one.getBoundingClientRect().right))"
    )
    assert widest <= 360


def test_still_where_motion_is_not_wanted(shown: Opener) -> None:
    page = shown("small")
    assert page.style("html", "scrollBehavior") == "auto"
    page = shown("small", motion="no-preference")
    assert page.style("html", "scrollBehavior") == "smooth"


def test_names_are_text_whatever_they_say(shown: Opener) -> None:
    page = shown("evil")
    assert page.browser.script("return document.querySelectorAll('img, i, script:not([type])').length") == 0
    assert page.browser.script("return document.title") == "/srv/\\xff<i> - fusemap"
    assert page.text("#root") == "/srv/\\xff<i>"
    text = page.text("#ledger-rows")
    for words in (
        "/in</script><img src=x onerror=document.title='hacked'>", "/in</<!--", "/\\xff\\xfe", "/a\\u202egpj.exe",
        "/new\\x0aline", "/\\x1b[31m", "/a&amp;b\"'", "/\\u2028", "/{{model}}", "w" * 250, "/ \\x09",
    ):  # fmt: skip
        assert words in text, words
    body = page.text("body")
    assert not [letter for letter in body if not letter.isprintable() and letter not in "\n\t\xa0\u200b"]
    assert page.style("#ledger-rows .path", "unicodeBidi") in ("isolate", "isolate-override")
    page.search("onerror=")
    assert len(page.texts("#ledger-rows tr")) == 1
    assert page.text("#unread-list") == "<b>\\xff: Permission denied"
    assert "fusemap mount SRC MNT" in page.text("#remedy")


@pytest.mark.parametrize(("name", "words"), [("one", "one device"), ("none", "happen not to meet")])
def test_a_tree_that_does_not_collide(shown: Opener, name: str, words: str) -> None:
    page = shown(name)
    assert page.text("h1") == "No two of 500 files share a number"
    assert words in page.text("#because")
    assert not page.seen("#harms")
    assert not page.seen("#example")
    assert not page.seen("#unread")
    assert page.text("#said").startswith("raw: ✓ ")
    assert page.texts("#lane-list .n") == ["none"] * (1 if name == "one" else 2)
    assert page.attribute("#before", "data-colliding") == "0"
    page.browser.press(TAB)


def test_thousands_of_devices(shown: Opener) -> None:
    page = shown("many")
    assert "3,000 devices" in page.text("#because")
    assert page.browser.script("return document.querySelectorAll('*').length") < 4000
    assert len(page.texts("#lane-list li")) == 16
    page.click("#lane-more")
    assert page.texts("#lane-list .who")[-1] == "2,904 other devices together"
    assert "1,000 more devices are left out" in page.text("#device-note")
    assert "are left out" in page.text("#ledger-left")
    assert "more like these" in page.text("#tree-rows")
    counted = re.findall(r"(?m)^([\d,]+) (?:more like these|devices)$", "\n".join(page.texts("#tree-rows .who")))
    named = len([text for text in page.texts("#tree-rows .who") if "/" in text])
    assert sum(int(number.replace(",", "")) for number in counted) + named == 3000
    details = page.browser.script("return document.querySelectorAll('#ledger-rows details').length")
    assert details > 10
    page.browser.script("document.querySelector('#ledger-rows details').open = true")
    assert "that are not listed here" in page.texts("#ledger-rows tr")[0]
    assert page.browser.script("return document.getElementById('back').disabled")
    blocks = page.attribute("#after", "data-blocks")
    for _ in range(3):
        page.click("#closer")
    assert "8 times closer" in page.text("#zoom-note")
    assert page.attribute("#after", "data-blocks") != blocks
    for _ in range(20):
        page.click("#closer")
    assert page.browser.script("return document.getElementById('closer').disabled")
    assert int(page.attribute("#after", "data-filled")) > 0
    page.click("#back")
    assert not page.browser.script("return document.getElementById('closer').disabled")


def test_a_million_files(shown: Opener, pages: Callable[[str], Path]) -> None:
    page = shown("million")
    assert pages("million").stat().st_size < 2_000_000
    assert page.text("h1") == "895,368 of 1,000,001 files would be mistaken for one another"
    assert page.text("#ledger-count") == "209,268 numbers shared by 895,368 files."
    listed, left = (int(word.replace(",", "")) for word in page.text("#ledger-left").split() if word[0].isdigit())
    assert listed + left == 209_268
    assert {"directories", "dir. and file", "files"} >= set(page.texts("#ledger-rows .tag"))
    page.choose("suffix")
    assert page.text("#said").endswith("Every file has a number of its own, and always will.")


def test_nothing_can_leave(browser: Browser, pages: Callable[[str], Path]) -> None:
    browser.open(pages("small"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        _try_to_leave(browser, address)
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
    complaints = browser.complaints()
    assert len(complaints) >= 4
    assert all("Content Security Policy" in words for words in complaints)


def _try_to_leave(browser: Browser, address: str) -> None:
    browser.script(
        "window.ran = false; const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        "document.body.append(script); const image = new Image(); image.src = arguments[0];"
        "document.body.setAttribute('onclick', 'window.ran = true'); document.body.click();",
        address,
    )  # fmt: skip
    failed = browser.driver.execute_async_script(
        "fetch(arguments[0]).then(() => arguments[1](false), () => arguments[1](true))", address
    )
    assert failed
    assert browser.script("return window.ran") is False
