"""The map of numbers before and after, as a small PNG for reports: the page's two squares with their legend.

Pillow draws it (the extra `png`): two squares of cells and some lines of text are all there is, for which matplotlib
would bring sixty megabytes and axes. It has a typeface of its own, so that the picture is the same on every machine.
What red means is also a cross, for a report is often printed without colour.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Final

from fusemap.view import hilbert
from fusemap.view.blocks import printable, shortened

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_CELL: Final = 9  # pixels
_SIDE: Final = _CELL << hilbert.ORDER
_MARGIN: Final = 36
_GAP: Final = 48
_TOP: Final = 190
_WIDTH: Final = 2 * (_MARGIN + _SIDE) + _GAP
_HEIGHT: Final = _TOP + _SIDE + 126
_NAMED: Final = 6  # devices

_PAPER: Final = "#ffffff"
_INK: Final = "#1c1b19"
_SOFT: Final = "#5d5a54"
_LINE: Final = "#d9d5cc"
_FAINT: Final = "#edeae3"
_RED: Final = "#b3261e"
_ROSE: Final = "#f6d9d5"


def png(model: dict[str, Any], after: str = "suffix") -> bytes:
    """The picture of a model (fusemap.view.model) as a PNG file: mode raw at the left, `after` at the right."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(image)
    schemes = {scheme["name"]: scheme for scheme in model["schemes"]}
    raw = schemes["raw"]
    colliding = sum(raw["files"].values())
    root = printable(os.fsencode(model["root"])).encode("latin-1", "backslashreplace").decode("latin-1")
    _text(draw, _MARGIN, 30, f"fusemap scan {shortened(root, 80)}", 18, _SOFT)
    _text(draw, _MARGIN, 58, _answer(model, colliding), 34, _INK)
    most = max(1, *(int(letter, 36) for name in ("raw", after) for letter in schemes[name]["map"][0]["names"]))
    for left, title, scheme, devices in (
        (_MARGIN, "before: raw, the host's own numbers", raw, []),
        (_MARGIN + _SIDE + _GAP, f"after: {after}", schemes[after], model["devices"]["listed"]),
    ):
        _text(draw, left, 122, title, 22, _INK)
        _text(draw, left, 152, _outcome(scheme), 18, _RED if scheme["pairs"] else _SOFT)
        _map(draw, left, _TOP, scheme["map"][0], devices, most)
    _legend(draw, _TOP + _SIDE + 22, model["devices"])
    file = io.BytesIO()
    image.quantize(32).save(file, "PNG", optimize=True)
    return file.getvalue()


def _answer(model: dict[str, Any], colliding: int) -> str:
    files, devices = model["files"], model["devices"]["count"]
    on = f"{devices:,} {'device' if devices == 1 else 'devices'}"
    if colliding:
        return f"As one device, {colliding:,} of {files:,} files on {on} share a number"
    return f"None of {files:,} files on {on} share a number"


def _outcome(scheme: dict[str, Any]) -> str:
    if not scheme["pairs"]:
        return "every file has a number of its own"
    numbers = sum(scheme["numbers"].values())
    return f"{sum(scheme['files'].values()):,} files share {numbers:,} {'number' if numbers == 1 else 'numbers'}"


def _map(draw: ImageDraw, left: int, top: int, level: dict[str, str], devices: list[dict[str, Any]], most: int) -> None:
    draw.rectangle((left - 1, top - 1, left + _SIDE, top + _SIDE), outline=_LINE)
    blocks = []
    for device in devices:
        for bits in device["affixes"]:
            x, y, width, height = (int(part * _SIDE) for part in hilbert.block(bits))
            right, bottom = left + x + max(width, 1) - 1, top + y + max(height, 1) - 1
            draw.rectangle((left + x, top + y, right, bottom), fill=_FAINT)
            if min(width, height) >= 3:
                blocks.append((left + x, top + y, right, bottom, device["number"]))
    names, hits = ([int(letter, 36) for letter in level[key]] for key in ("names", "colliding"))
    hits += [0] * (len(names) - len(hits))
    for at, (number, hit) in enumerate(zip(names, hits, strict=True)):
        if number:
            column, row = hilbert.place(hilbert.ORDER, at)
            _cell(draw, left + column * _CELL, top + row * _CELL, number / most, bool(hit))
    for x, y, right, bottom, number in blocks:
        draw.rectangle((x, y, right, bottom), outline=_INK)
        size = min(right - x, bottom - y) // 2
        if size >= 12:
            draw.text(
                ((x + right) / 2, (y + bottom) / 2), str(number), _INK, _font(min(size, 34)), "mm",
                stroke_width=4, stroke_fill=_FAINT,
            )  # fmt: skip


def _cell(draw: ImageDraw, x: int, y: int, much: float, collides: bool) -> None:
    if collides:
        draw.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), fill=_ROSE)
        low, high = 2, _CELL - 3
        draw.line((x + low, y + low, x + high, y + high), _RED, 2)
        draw.line((x + low, y + high, x + high, y + low), _RED, 2)
    else:
        side = 2 + round(4 * much)
        edge = (_CELL - side) // 2
        draw.rectangle((x + edge, y + edge, x + edge + side - 1, y + edge + side - 1), fill=_INK)


def _legend(draw: ImageDraw, top: int, devices: dict[str, Any]) -> None:
    x = _MARGIN
    for collides, words in ((False, "files"), (True, "some of them share a number")):
        _cell(draw, x, top + 5, 1.0, collides)
        x = 28 + _text(draw, x + 18, top, words, 18, _INK)
    draw.rectangle((x, top + 4, x + 14, top + 15), fill=_FAINT, outline=_INK)
    _text(draw, x + 24, top, "a block of numbers that one device has to itself, with the device's number", 18, _INK)
    about = "Each square is all 2^64 numbers; those that end in the same bits lie together."
    _text(draw, _MARGIN, top + 32, about, 18, _SOFT)
    named = [f"{device['number']} {_place(device['path'])}" for device in devices["listed"][:_NAMED]]
    more = devices["count"] - len(named)
    listed = ",  ".join(named) + (f"  and {more:,} more" if more else "")
    _text(draw, _MARGIN, top + 60, f"Devices:  {listed}", 18, _SOFT)


def _place(path: str) -> str:
    """A path with the letters that the typeface has."""
    text = "/" if path == "." else "/" + printable(os.fsencode(path))
    return shortened(text.encode("latin-1", "backslashreplace").decode("latin-1"), 28)


def _text(draw: ImageDraw, x: int, y: int, words: str, size: int, colour: str) -> int:
    """Writes a line, smaller where it would not fit; where it ends."""
    font = _font(size)
    while x + draw.textlength(words, font) > _WIDTH - 8 and size > 9:
        size -= 1
        font = _font(size)
    draw.text((x, y), words, colour, font)
    return x + round(draw.textlength(words, font))


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
