"""Type, version and path on the wire, and the examples in the documentation."""

from __future__ import annotations

import doctest
import importlib
import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemap.qid import QID, qid_type, version, version_qemu
from fusemap.qid import qid as module

times = st.integers(-(2**66), 2**66)
sizes = st.integers(0, 2**63 - 1)


@given(type=st.integers(0, 255), version=st.integers(0, 2**32 - 1), path=st.integers(0, 2**64 - 1))
def test_the_wire_there_and_back(type: int, version: int, path: int) -> None:
    qid = QID(type, version, path)
    data = qid.pack()
    assert data == bytes([type]) + version.to_bytes(4, "little") + path.to_bytes(8, "little")
    for form in (data, bytearray(data), memoryview(data)):
        assert QID.unpack(form) == qid


@pytest.mark.parametrize("size", [0, 12, 14])
def test_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"13 bytes, not {size}"):
        QID.unpack(bytes(size))


@pytest.mark.parametrize(
    "fields", [(256, 0, 0), (0, 2**32, 0), (0, 0, 2**64), (-1, 0, 0), (0, -1, 0), (0, 0, -1)]
)
def test_fields_out_of_range_are_refused(fields: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        QID(*fields).pack()


@pytest.mark.parametrize(
    ("qid", "text"),
    [
        (QID(0x80, 0x5CC9B6E0, 164), "d/5cc9b6e0/164"),
        (QID(0x02, 1, 2**64 - 3), "L/00000001/18446744073709551613"),
        (QID(0, 0, 25), "-/00000000/25"),
        (QID(0x80 | 0x40, 0, 2), "da/00000000/2"),
    ],
)
def test_printing(qid: QID, text: str) -> None:
    assert str(qid) == f"{qid}" == text


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        (stat.S_IFDIR, 0x80),
        (stat.S_IFLNK, 0x02),
        *((kind, 0) for kind in (stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)),
    ],
)
def test_types(kind: int, type_: int) -> None:
    for mode in (0, 0o644, 0o7777):
        assert qid_type(kind | mode) == type_


def test_version_stays_the_same_for_ever() -> None:
    assert version(1_700_000_000_123_456_789, 1_700_000_000_987_654_321, 4096) == 3709362389
    assert version(0, 0, 0) == 1098547659


@given(mtime=times, ctime=times, size=sizes)
def test_version_is_never_0_and_fits(mtime: int, ctime: int, size: int) -> None:
    assert 1 <= version(mtime, ctime, size) < 2**32


def test_a_hash_of_0_becomes_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "xxh32_intdigest", lambda data: 0)
    assert version(1, 2, 3) == 1


def test_version_tells_all_its_arguments_apart() -> None:
    seen = {version(m, c, s) for m in (-1, 0, 1) for c in (-1, 0, 1) for s in (0, 1, 2**32, 2**62)}
    assert len(seen) == 36


@pytest.mark.parametrize(
    ("mtime", "size"), [(0, 0), (1700000000, 4096), (-1, 1), (2**33 + 5, 2**40), (5, 2**24)]
)
def test_qemus_version(mtime: int, size: int) -> None:
    # What C makes of it: 64-bit signed arithmetic, stored in an uint32_t.
    (expected,) = struct.unpack("<I", ((mtime ^ size << 8) & 2**64 - 1).to_bytes(8, "little")[:4])
    assert version_qemu(mtime, size) == expected


@given(mtime=times, size=sizes)
def test_qemus_version_fits(mtime: int, size: int) -> None:
    assert 0 <= version_qemu(mtime, size) < 2**32


@pytest.mark.parametrize("name", ["affix", "entries", "mapper", "qid", "rules"])
def test_examples_in_the_documentation(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"fusemap.qid.{name}"))
    assert found.failed == 0
    assert found.attempted or name in ("entries", "rules")
