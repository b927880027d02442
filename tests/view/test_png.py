"""The picture for reports: both squares, small, and readable without colour."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from fusemap.view import hilbert
from fusemap.view.model import model
from fusemap.view.png import png

from ..support import needs
from .pretend import Disk, many, pretended

# Where the squares are: what fusemap.view.png says
CELL, TOP, BEFORE = 9, 190, 36
AFTER = BEFORE + CELL * 64 + 48
RED, INK = (179, 38, 30), (28, 27, 25)


@pytest.fixture(scope="module", autouse=True)
def pillow() -> Iterator[None]:
    try:
        import PIL  # noqa: F401
    except ImportError:
        needs.missing("Pillow is not installed")
    yield


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    named = b"\xff\x1b[1m" + b"long" * 50
    with pretended([Disk(b".", 40), Disk(named, 60, 64), Disk("\u65e5".encode(), 35, 64)]) as some:
        return model(some)


def opened(data: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def close(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 24


def cell(image: Any, left: int, at: int) -> list[tuple[int, ...]]:
    x, y = (CELL * part for part in hilbert.place(hilbert.ORDER, at))
    x, y = left + x, TOP + y
    return [image.getpixel((x + right, y + down)) for down in range(1, CELL - 1) for right in range(1, CELL - 1)]


def test_collisions_are_red_crosses_before_and_gone_after(found: dict[str, Any]) -> None:
    data = png(found)
    assert data.startswith(b"\x89PNG")
    image = opened(data)
    schemes = {scheme["name"]: scheme for scheme in found["schemes"]}
    (level,) = schemes["raw"]["map"]
    hits = [at for at, letter in enumerate(level["colliding"]) if letter != "0"]
    assert len(hits) == 35
    for at in hits:
        pixels = cell(image, BEFORE, at)
        assert any(close(pixel, RED) for pixel in pixels)
        light = sum(sum(pixel) > 600 for pixel in pixels)
        assert 10 < light < len(pixels)  # a cross and not a patch, for those who see no red
    for at, letter in enumerate(level["names"]):
        if letter != "0" and at not in hits:
            assert any(close(pixel, INK) for pixel in cell(image, BEFORE, at))
    after = image.crop((AFTER, TOP, AFTER + 64 * CELL, TOP + 64 * CELL))
    assert not any(close(pixel, RED) for _, pixel in after.getcolors(1 << 20))


def test_blocks_have_an_outline(found: dict[str, Any]) -> None:
    image = opened(png(found))
    side = 64 * CELL
    for device in found["devices"]["listed"]:
        x, y, width, height = (int(part * side) for part in hilbert.block(device["affixes"][0]))
        for column in (x, x + width - 1):
            edge = [image.getpixel((AFTER + column, TOP + row)) for row in range(y, y + height)]
            assert all(close(pixel, INK) for pixel in edge)


@pytest.mark.parametrize("after", ["prefix", "xor", "raw"])
def test_any_scheme_can_be_the_one_after(found: dict[str, Any], after: str) -> None:
    assert png(found, after) != png(found)


@pytest.mark.parametrize("disks", [[Disk(b".", 2)], many(1200, 9000)], ids=["one", "many"])
def test_it_is_small_whatever_the_tree(disks: list[Disk]) -> None:
    with pretended(disks) as census:
        data = png(model(census))
    assert len(data) < 60_000
    assert opened(data).size == (1272, 892)
