"""The README's pictures show what a scan of the demo's tree says today.

They are made again, and what is written in the new ones is compared with what is in the old ones, as far as it must be
the same everywhere: st_dev, uuids and what they lead to (device XOR inode) are not, nor are inode numbers, which are
the kernel's and mkfs's choice.
"""

from __future__ import annotations

import importlib.util
import re
import struct
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

import pytest

from ..support import needs
from ..support.process import run

PICTURES = Path(__file__).resolve().parents[2] / "examples" / "pictures"
NAMES = ("schemes.svg", "devices.svg", "collisions.svg", "map.png")
KIBIBYTE = 1024


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that have just been made."""
    for kind in ("ext4", "xfs", "btrfs", "overlay"):
        needs.file_system(kind)
    needs.tools("unshare", "setpriv", "btrfs")
    for module in ("rich", "numpy", "PIL"):
        if importlib.util.find_spec(module) is None:
            needs.missing(f"{module} is not installed")
    place = tmp_path_factory.mktemp("pictures")
    run(sys.executable, PICTURES / "make.py", place, timeout=110)
    return place


def lines(picture: Path) -> list[str]:
    """What is written in an SVG, line by line."""
    written: dict[float, list[tuple[float, str]]] = defaultdict(list)
    for text in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text"):
        if "clip-path" in text.attrib:  # what is not the title
            written[float(text.attrib["y"])].append((float(text.attrib["x"]), text.text or ""))
    rows = ("".join(word for _, word in sorted(words)) for _, words in sorted(written.items()))
    return [row.replace("\xa0", " ").rstrip() for row in rows]


def lasting(line: str) -> str:
    """What is the same wherever the pictures are made."""
    device = re.match(r" *(\d+) +(\S+) +\S+ .* \d+:\d+ +([01]+(?: \+\d+)?) +(\d+) ", line)
    if device:
        return " ".join(device.groups())
    if re.match(r"(raw|qemu|xor|\d+ numbers of raw) ", line):
        return re.sub(r"[\d,.e-]+", "#", re.sub(" +", " ", line))
    if re.match(r"(raw: |With raw )", line):
        return re.sub(r"\d+ of|\d+ numbers", "#", line)
    if re.match(r" *\d+ \S+ +\|[X -]+\| \d+$", line):
        return line.partition("|")[0]
    return re.sub(" +", " ", line)


def compared(picture: Path) -> list[str]:
    """All that must be equal: not which files collide, but that some do."""
    return [lasting(line) for line in lines(picture) if not re.match(r"( *\d+)? +\d+  \S|and .* more|.*inode 0", line)]


@pytest.mark.parametrize("name", NAMES[:3])
def test_the_pictures_say_what_a_scan_says_today(made: Path, name: str) -> None:
    assert compared(made / name) == compared(PICTURES / name)


def test_they_show_the_product(made: Path) -> None:
    text = "\n".join(lines(made / "schemes.svg"))
    assert re.search(r"^raw: \d+ of 646 files share \d+ numbers$", text, re.MULTILINE)
    assert re.search("^suffix +fusemap +0 +0 +0 +0 ", text, re.MULTILINE)
    assert "every file has a number of its own" in text
    text = "\n".join(lines(made / "collisions.svg"))
    assert re.search(r"^ +3 home/alice +\| *X+ *\| \d+$", text, re.MULTILINE)
    assert re.search(r"^ +256 +2  home/\n +3  home/alice/\n +4  home/bob/$", text, re.MULTILINE)


def test_the_map_is_a_picture_of_the_same_size(made: Path) -> None:
    sizes = []
    for place in (made, PICTURES):
        data = (place / "map.png").read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        sizes.append(struct.unpack(">II", data[16:24]))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", NAMES)
def test_they_are_small_and_need_no_network(name: str) -> None:
    data = (PICTURES / name).read_bytes()
    assert len(data) < 100 * KIBIBYTE
    assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg\")", data)
    assert b"@font-face" not in data
