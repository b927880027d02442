"""The tables of QEMU's patches: bit for bit, and refused where a bit is wrong."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from fusemap.errors import DamagedTable, Refused
from fusemap.qid import FullEntry, Holder, Mapper
from fusemap.table import open_table, v1
from fusemap.table.ledger import Device, Ledger

from ..support import needs
from .shelves import IDENTITY, key

MASK = (1 << 64) - 1


class Patches:
    """What the patches' code does with numbers, from the description of the format; the oracle of these tests."""

    def __init__(self, k: int = 0) -> None:
        self.k = k
        self.entries: dict[tuple[int, int], int] = {}
        self.bits: dict[int, int] = {}

    def path(self, dev: int, inode: int) -> int:
        bits = self.bits.setdefault(dev, self.affix(len(self.entries) + 1)[1])
        index = self.entries.setdefault((dev, inode >> 64 - bits & 0xFFFF), len(self.entries) + 1)
        suffix, length = self.affix(index)
        return (inode << length | suffix) & MASK

    def affix(self, index: int) -> tuple[int, int]:
        value = index + (1 << self.k) - 1
        length = value.bit_length() + max(value.bit_length() - 1 - self.k, 0)
        return int(f"{value:0{length}b}"[::-1], 2), length

    def streams(self) -> v1.Streams:
        qidp = b"".join(struct.pack("<QH", *key) for key in self.entries)
        qidd = b"".join(struct.pack("<QB", *pair) for pair in self.bits.items())
        return v1.Streams(
            struct.pack("<HHI", 1, self.k + 1, crc32c(qidp)) + qidp, struct.pack("<HHI", 1, 0, crc32c(qidd)) + qidd
        )


def some(k: int = 0) -> Patches:
    patches = Patches(k)
    for dev in (0x801, 0x802, 0xFD00, 0x25, 0x26):
        patches.path(dev, 12)
    patches.path(0x801, 1 << 63)
    patches.path(0x26, 3 << 62)
    return patches


def ledger_of(patches: Patches, mode: str = "suffix", k: int = 0) -> tuple[Ledger, v1.Report]:
    ledger = Ledger(mode, k, IDENTITY)
    report = v1.import_into(ledger, v1.parse(patches.streams(), "/srv"), lambda dev: f"uuid:{dev}", "/srv")
    return ledger, report


def test_known_bytes() -> None:
    """One device with one entry, k = 0, written down by hand."""
    streams = v1.Streams(
        bytes.fromhex("0100" "0100") + crc32c(bytes.fromhex("0108000000000000" "0000")).to_bytes(4, "little")
        + bytes.fromhex("0108000000000000" "0000"),
        bytes.fromhex("0100" "0000") + crc32c(bytes.fromhex("0108000000000000" "01")).to_bytes(4, "little")
        + bytes.fromhex("0108000000000000" "01"),
    )  # fmt: skip
    table = v1.parse(streams, "/srv")
    assert table == v1.V1Table(True, 0, [(0x801, 0)], {0x801: 1})
    assert v1.build(table) == streams


@given(
    files=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([5, 1 << 63, 3 << 62, 1 << 60, 1 << 48])), max_size=40),
    k=st.integers(0, 8),
)
def test_streams_come_back_bit_for_bit(files: list[tuple[int, int]], k: int) -> None:
    patches = Patches(k)
    for file in files:
        patches.path(*file)
    streams = patches.streams()
    table = v1.parse(streams, "/srv")
    assert v1.build(table) == streams
    assert table.k == k or not files


@given(
    files=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([5, 1 << 63 | 5, 3 << 62 | 5, 1 << 60 | 5])),
    max_size=40), mode=st.sampled_from(["suffix", "qemu"]),
)
def test_an_imported_table_keeps_the_numbers(files: list[tuple[int, int]], mode: str) -> None:
    """In qemu mode all of them. In suffix mode those of every inode whose lost bits are clear."""
    patches = Patches()
    paths = {file: patches.path(*file) for file in files}
    ledger, report = ledger_of(patches, mode)
    assert (report.taken, report.left_out) == (len(patches.entries), 0)
    mapper = Mapper(mode, 0, ledger.records("boot"))
    for (dev, inode), path in paths.items():
        length = patches.affix(patches.entries[dev, inode >> 64 - patches.bits[dev] & 0xFFFF])[1]
        lost = (1 << 64 - patches.bits[dev]) - (1 << 64 - length)
        if mode == "qemu" or not inode & lost:
            assert mapper.path(f"uuid:{dev}", inode) == path
    if mode == "suffix":
        assert len({mapper.path(f"uuid:{dev}", inode) for dev, inode in set(files)}) == len(set(files))


def test_the_report_says_how_many_could_have_collided() -> None:
    ledger, report = ledger_of(some())
    assert (report.taken, report.inexact, report.left_out) == (7, 1, 0)
    assert "7 entries, of which 1" in str(report)
    assert len(ledger.entries) == 7


def test_devices_that_are_gone_leave_their_indices_unused() -> None:
    ledger = Ledger("suffix", 0, IDENTITY)
    table = v1.parse(some().streams(), "/srv")
    report = v1.import_into(ledger, table, lambda dev: None if dev == 0x802 else f"uuid:{dev}", "/srv")
    assert (report.taken, report.left_out) == (6, 1)
    assert ledger.retired == {2}
    assert ledger.index_for("uuid:new", "boot") == 8


def test_every_flipped_bit_and_every_truncation_is_refused() -> None:
    whole = some().streams()
    assert whole.qidd is not None
    for stream in ("qidp", "qidd"):
        data = getattr(whole, stream)
        for at in range(len(data)):
            for bit in range(8):
                wrong = data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]
                refused(whole._replace(**{stream: wrong}))
        for size in range(len(data)):
            refused(whole._replace(**{stream: data[:size]}))
    refused(v1.Streams(whole.qidp, None))


def test_every_flipped_bit_of_a_prefix_table_is_refused() -> None:
    data = v1.build(v1.V1Table(False, 0, [(1, 0), (2, 0), (1, 7)], {})).qidp
    for at in range(len(data)):
        for bit in range(8):
            refused(v1.Streams(data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :], None))
    for size in range(len(data)):
        refused(v1.Streams(data[:size], None))


def refused(streams: v1.Streams) -> None:
    with pytest.raises(DamagedTable, match=r"/srv is damaged \(qid[pd]: .*nothing was changed"):
        v1.parse(streams, "/srv")


def test_streams_that_contradict_each_other_are_refused() -> None:
    table = v1.parse(some().streams(), "/srv")
    for wrong in (
        table._replace(bits={**table.bits, 0x802: 5}),
        table._replace(bits={**table.bits, 0x999: 2}),
        table._replace(elements=[*table.elements, table.elements[0]]),
        table._replace(elements=[*table.elements, (0x801, 2)]),
        table._replace(elements=[*table.elements, (0x777, 0)]),
    ):
        refused(v1.build(wrong))


def test_another_mode_or_k_is_refused_by_its_name() -> None:
    for mode, k in (("suffix", 1), ("prefix", 0), ("qemu", 3)):
        with pytest.raises(Refused, match="--map suffix -k 0"):
            ledger_of(some(), mode, k)


def exported() -> Ledger:
    ledger = Ledger("suffix", 0, IDENTITY)
    for number in range(1, 4):
        ledger.apply(Device(key(number)))
        ledger.apply(ledger.entry(number, key(number), 0))
    ledger.apply(ledger.entry(4, key(1), 0b10000))  # N = 1: 1, and clear below
    ledger.apply(ledger.entry(5, key(2), 0b01001))  # N = 3: 010, and 01 below, which v1 cannot say
    ledger.apply(ledger.entry(6, key(3), 0b01100))
    return ledger


def test_an_export_says_what_v1_can_say() -> None:
    devs = {key(1): 0x801, key(3): 0x803, key(2): 0x802}
    table, report = v1.export_from(exported(), devs.get)
    assert report == v1.Report(5, 2, 1)
    assert v1.parse(v1.build(table), "/srv") == table
    assert table.elements[3] == (0x801, 1)
    ledger = Ledger("suffix", 0, IDENTITY)
    v1.import_into(ledger, table, {dev: name for name, dev in devs.items()}.get, "/srv")
    kept = {index: entry for index, entry in exported().entries.items() if index != 5}
    assert ledger.entries == kept
    assert ledger.retired == {5}


def test_an_export_says_what_it_leaves_out_of_single_files() -> None:
    ledger = exported()
    ledger.apply(Holder(key(1), 12, 7))
    ledger.apply(Holder(key(1), 13, 7))
    ledger.apply(FullEntry(1, key(1), 12, 8))
    table, report = v1.export_from(ledger, {key(1): 0x801}.get)
    assert table.elements == v1.export_from(exported(), {key(1): 0x801}.get)[0].elements
    assert (report.files, report.holders) == (1, 2)
    assert "1 files of the full map left out" in str(report)
    assert "which file had an inode number first, left out for 2" in str(report)


def test_an_export_keeps_the_place_of_what_is_gone() -> None:
    table, report = v1.export_from(exported(), {key(1): 0x801}.get)
    assert (report.taken, report.left_out) == (2, 4)
    assert len(table.elements) == 6
    assert v1.parse(v1.build(table), "/srv") == table


def test_too_many_entries_for_v1() -> None:
    ledger = Ledger("suffix", 0, IDENTITY)
    ledger.apply(Device(key(1)))
    ledger.apply(ledger.entry(32767, key(1), 0))
    assert len(v1.export_from(ledger, {key(1): 1}.get)[0].elements) == 32767
    ledger.apply(ledger.entry(32768, key(1), 1))
    with pytest.raises(Refused, match="32767"):
        v1.export_from(ledger, {key(1): 1}.get)


def test_attributes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        monkeypatch.setattr(v1, "PIECE", 50)
        try:
            v1.write(fd, some().streams())
        except OSError as error:
            needs.missing(f"the temporary directory holds no attributes: {error.strerror}")
        assert os.getxattr(fd, v1.PREFIX + "qidp.1")
        assert v1.read(fd, "/srv") == some().streams()
        small = Patches()
        small.path(1, 1)
        v1.write(fd, small.streams())
        assert v1.read(fd, "/srv") == small.streams()
        v1.write(fd, some().streams())
        os.removexattr(fd, v1.PREFIX + "qidp.0")
        with pytest.raises(DamagedTable, match=r"qidp\.0 is not there"):
            v1.read(fd, "/srv")
        v1.remove(fd)
        assert v1.read(fd, "/srv") is None
    finally:
        os.close(fd)


def test_a_table_of_the_patches_is_taken_over_where_there_is_none_of_ours(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    patches = some()
    fd = os.open(tree, os.O_RDONLY)
    try:
        v1.write(fd, patches.streams())
    except OSError as error:
        needs.missing(f"the temporary directory holds no attributes: {error.strerror}")
    finally:
        os.close(fd)
    place = str(tmp_path / "state")
    for _ in range(2):
        table = open_table(tree, directory=place, device_of=lambda dev: f"uuid:{dev}")
        mapper = table.mapper()
        for dev in patches.bits:
            assert mapper.path(f"uuid:{dev}", 13) == patches.path(dev, 13)
        table.close()
    os.setxattr(tree, v1.PREFIX + "qidp.0", b"rubbish")
    open_table(tree, directory=place).close()  # ours is there, so theirs does not matter
    for name in [name for name in os.listxattr(tree) if name.startswith("user.fusemap.")]:
        os.removexattr(tree, name)
    with pytest.raises(DamagedTable, match="qidp"):
        open_table(tree, directory=place, device_of=lambda dev: None)
    fd = os.open(tree, os.O_RDONLY)
    v1.write(fd, patches.streams())
    os.close(fd)
    with pytest.raises(Refused, match="--map suffix -k 0"):
        open_table(tree, directory=place, mode="prefix", device_of=lambda dev: None)
