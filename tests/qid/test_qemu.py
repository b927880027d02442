"""Mode `qemu` against QEMU: numbers that a Linux guest saw, and QEMU's functions followed line by line.

oracle/ holds what a real QEMU 7.2 with multidevs=remap gave to a real guest, in the order in which it first
saw the files.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from fusemap.qid import Allocator, Mapper

from .models import MASK64, RESERVED, QemuModel
from .strategies import files, orders, starts

Files = list[tuple[Hashable, int]]

ORACLE = Path(__file__).with_name("oracle")


def rows(name: str) -> list[dict[str, Any]]:
    found = json.loads((ORACLE / name).read_text())["rows"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("name", sorted(path.name for path in ORACLE.glob("*.json")))
def test_every_number_the_guest_saw(name: str) -> None:
    mapper, model = Mapper("qemu"), QemuModel()
    for row in rows(name):
        path = mapper.path(row["dev"], row["ino"])
        assert path == model.path(row["dev"], row["ino"])
        assert row["path"] in (None, path)


def test_all_four_recordings_are_there() -> None:
    assert len(list(ORACLE.glob("*.json"))) == 4
    assert sum(row["path"] is not None for path in ORACLE.glob("*.json") for row in rows(path.name)) > 200


def test_qemu_gives_164_to_two_files_of_one_device() -> None:
    a, b = 0x8000000000000005, 0x9000000000000005
    seen = [(row["dev"], row["ino"]) for row in rows("qemu-remap-collision.json")]
    assert {(1, a), (1, b)} <= set(seen)
    qemu, suffix = Mapper("qemu"), Mapper("suffix")
    for dev, ino in seen:
        qemu.path(dev, ino)
        suffix.path(dev, ino)
    assert qemu.path(1, a) == qemu.path(1, b) == 164
    # The inverse can name only one of the two, and names the one whose lost bits are clear.
    assert qemu.locate(164) == (1, a)
    assert suffix.path(1, a) == 164
    assert suffix.path(1, b) != 164
    assert suffix.locate(suffix.path(1, b)) == (1, b)


def test_hash_bits_above_16_are_cut_from_the_key() -> None:
    # Index 256 has 17 bits, hence N = 17 for this device, and the topmost bit is in no key.
    mapper, model = Mapper("qemu", source=Allocator(index=256)), QemuModel(qp_affix_next=256)
    a, b = 7, 1 << 63 | 7
    assert model.path("d", a) == mapper.path("d", a) == mapper.path("d", b) == model.path("d", b)
    assert mapper.used() == 1
    assert mapper.locate(mapper.path("d", b)) == ("d", a)


@given(files=files, k=orders, start=starts)
def test_numbers_are_those_of_qemus_functions(files: Files, k: int, start: int) -> None:
    mapper, model = Mapper("qemu", k, source=Allocator(index=start)), QemuModel(k, start & 0xFFFF)
    for file in files:
        path, theirs = mapper.path(*file), model.path(*file)
        if theirs in RESERVED:
            assert 2 <= path <= MASK64 - 2
            # QEMU emits it, ours takes a number of the full map instead: from here on, that is one further.
            model.qp_fullpath_next = mapper.full_used() + 1
        else:
            assert path == theirs
    assert mapper.used() == len(model.qpp_table)


@given(files=files, k=orders, start=starts)
def test_the_inverse_names_a_file_with_that_number(files: Files, k: int, start: int) -> None:
    mapper = Mapper("qemu", k, source=Allocator(index=start))
    for device, inode in files:
        path = mapper.path(device, inode)
        found = mapper.locate(path)
        assert found[0] == device
        assert mapper.peek(*found) == path


@given(files=files, k=orders, start=starts)
def test_collisions_stay_within_a_device(files: Files, k: int, start: int) -> None:
    mapper = Mapper("qemu", k, source=Allocator(index=start))
    owner: dict[int, Hashable] = {}
    for device, inode in files:
        assert owner.setdefault(mapper.path(device, inode), device) == device
