"""`Mapper` at its edges: arguments, reserved numbers, mode raw, and the end of all numbers."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

from fusemap.errors import FusemapError, MappingExhausted
from fusemap.qid import MODES, Allocator, Entry, FullEntry, Mapper, kraft, suffix

from .models import MASK64, PrefixModel, QemuModel, SuffixModel

REMAPPING = ["prefix", "qemu", "suffix"]
FULL = suffix(65536)
FIRST_FULL = {"prefix": 2, "qemu": 1 << FULL.length | FULL.bits, "suffix": 1 << FULL.length | FULL.bits}
LAST_COUNTER = {"prefix": 2**48 - 1, "qemu": 2**31 - 1, "suffix": 2**31 - 1}


def test_the_default_is_suffix_with_order_0() -> None:
    mapper = Mapper()
    assert (mapper.mode, mapper.k) == ("suffix", 0)
    assert repr(mapper) == "<Mapper mode='suffix' k=0: 0 entries, 0 in the full map>"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("inode", [-1, -(2**63), 2**64, 2**70])
def test_inodes_that_are_not_64_bits_are_refused(mode: str, inode: int) -> None:
    mapper = Mapper(mode)
    for known in (False, True):
        for ask in (mapper.path, mapper.peek):
            with pytest.raises(ValueError, match="unsigned 64-bit number, 0 to 18446744073709551615"):
                ask("d", inode)
        assert mapper.used() == (known and mode != "raw")
        mapper.path("d", 5)


def test_unknown_modes_and_orders_are_refused() -> None:
    with pytest.raises(ValueError, match="raw, prefix, qemu, suffix, not 'sufix'"):
        Mapper("sufix")
    for mode in MODES:
        for k in (-1, 9):
            with pytest.raises(ValueError, match="k must be from 0 to 8"):
                Mapper(mode, k)


def test_small_numbers_stay_small() -> None:
    mapper = Mapper()
    assert [mapper.path(device, 256) for device in "abcd"] == [513, 2050, 2054, 8196]
    assert [(e.device, e.index, e.length, e.affix, e.top) for e in mapper.entries()] == [
        ("a", 1, 1, 0b1, 0),
        ("b", 2, 3, 0b010, 0),
        ("c", 3, 3, 0b110, 0),
        ("d", 4, 5, 0b00100, 0),
    ]
    assert (mapper.used(), mapper.full_used(), list(mapper.full())) == (4, 0, [])
    assert kraft(entry.length for entry in mapper.entries()) == 25 / 32


def test_prefixes_stand_for_device_and_top_16_bits() -> None:
    mapper = Mapper("prefix")
    assert mapper.path("a", 5) == 1 << 48 | 5
    assert mapper.path("b", 5) == 2 << 48 | 5
    assert mapper.path("a", 0xABCD << 48 | 5) == 3 << 48 | 5
    assert mapper.path("a", 0xABCD << 48 | 6) == 3 << 48 | 6
    assert list(mapper.entries())[2] == Entry(index=3, device="a", length=16, affix=3, top=0xABCD)


def test_a_device_is_first_seen_with_its_top_bits_set() -> None:
    mapper, model = Mapper(), SuffixModel()
    for inode in (1 << 63 | 5, 5, 1 << 60 | 5, 1 << 63 | 6, 6, 0xFF << 56):
        assert mapper.path("d", inode) == model.path("d", inode)
    assert [(entry.length, entry.top) for entry in mapper.entries()] == [(1, 1), (3, 0)]


# Reserved numbers.


@pytest.mark.parametrize("k", range(9))
@pytest.mark.parametrize("mode", ["qemu", "suffix"])
@pytest.mark.parametrize("top", [0, 1])
def test_inodes_whose_suffixed_number_is_reserved(mode: str, k: int, top: int) -> None:
    # Suffix 0..01 makes 1 of a region's first inode; 1..11 and 1..10 make 2^64 - 1 and 2^64 - 2 of its last.
    for index, reserved in ((1, 1), (1 << k, MASK64), (3 << k, MASK64 - 1)):
        mapper = Mapper(mode, k, source=Allocator(index=index))
        length = suffix(index, k).length
        inode = top << 64 - length | reserved >> length
        assert inode << length & MASK64 | suffix(index, k).bits == reserved
        path = mapper.path("d", inode)
        assert path == 1 << suffix(65536, k).length | suffix(65536, k).bits
        assert list(mapper.full()) == [FullEntry(1, "d", inode)]
        assert mapper.path("d", inode) == mapper.peek("d", inode) == path
        assert mapper.locate(path) == ("d", inode)
        # Its neighbours are served by the entry as if nothing had happened.
        neighbour = inode + (1 if reserved == 1 else -1)
        assert mapper.path("d", neighbour) == neighbour << length & MASK64 | suffix(index, k).bits
        assert (mapper.used(), mapper.full_used()) == (1, 1)


@pytest.mark.parametrize("top", [0, 0xABCD])
def test_inodes_whose_prefixed_number_is_reserved(top: int) -> None:
    mapper = Mapper("prefix", source=Allocator(index=65535))
    last = top << 48 | (1 << 48) - 1
    assert mapper.path("d", last - 2) == MASK64 - 2
    assert [mapper.path("d", last), mapper.path("d", last - 1)] == [2, 3]
    assert [mapper.locate(2), mapper.locate(3)] == [("d", last), ("d", last - 1)]


def test_a_reserved_number_of_qemus_with_several_inodes_behind_it() -> None:
    # One device with N = 1, and entry 110 for its upper half: four inodes would get 2^64 - 2.
    mapper, model = Mapper("qemu"), QemuModel()
    for device, inode in (("d", 5), ("other", 5), ("d", 1 << 63 | 5)):
        assert mapper.path(device, inode) == model.path(device, inode)
    four = [0b100 + i << 61 | (1 << 61) - 1 for i in range(4)]
    assert {model.path("d", inode) for inode in four} == {MASK64 - 1}
    paths = [mapper.path("d", inode) for inode in four]
    assert len(set(paths)) == 4
    assert [mapper.locate(path) for path in paths] == [("d", inode) for inode in four]


# Mode raw.


def test_raw_shows_the_disease() -> None:
    mapper = Mapper("raw")
    with pytest.raises(LookupError, match="has seen 0"):
        mapper.locate(12)
    for inode in (0, 1, 12, MASK64 - 1, MASK64):
        assert mapper.path("a", inode) == mapper.peek("a", inode) == inode
        assert mapper.locate(inode) == ("a", inode)
    assert mapper.peek("b", 12) == 12
    assert mapper.locate(12) == ("a", 12)
    assert mapper.path("b", 12) == mapper.path("a", 12) == 12
    with pytest.raises(LookupError, match="cannot tell the device of path 12: it has seen 2"):
        mapper.locate(12)
    for path in (-1, 1 << 64):
        with pytest.raises(LookupError):
            mapper.locate(path)
    assert (list(mapper.entries()), list(mapper.full()), mapper.used(), mapper.full_used()) == ([], [], 0, 0)


def test_raw_has_nothing_to_learn() -> None:
    for record in (Mapper().entry(1, "d", 0), FullEntry(1, "d", 0)):
        with pytest.raises(ValueError, match="raw"):
            Mapper("raw").learn(record)
    with pytest.raises(ValueError, match="raw"):
        Mapper("raw").entry(1, "d", 0)


# The end of all numbers.


@pytest.mark.parametrize(("mode", "start"), [("prefix", 65000), ("qemu", 65000), ("suffix", 1)])
def test_all_affixes_then_the_full_map(mode: str, start: int) -> None:
    mapper = Mapper(mode, source=Allocator(index=start))
    for device in range(start - 1, 65535):
        mapper.path(device, 5)
    used = 65536 - start
    assert (mapper.used(), mapper.full_used()) == (used, 0)
    assert kraft(entry.length for entry in mapper.entries()) < 1
    # Devices that have an entry go on with it, others get a number for each file.
    assert mapper.path(65534, 6) == (65535 << 48 | 6 if mode == "prefix" else 6 << 31 | suffix(65535).bits)
    late = [("late", 5), ("late", 6), (65534, 1 << 48), ("later", 5)]
    paths = [mapper.path(*file) for file in late]
    step = 1 if mode == "prefix" else 1 << FULL.length
    assert paths == [FIRST_FULL[mode] + i * step for i in range(4)]
    assert [mapper.locate(path) for path in paths] == late
    assert [mapper.path(*file) for file in late] == paths
    assert (mapper.used(), mapper.full_used()) == (used, 4)
    with pytest.raises(LookupError):
        mapper.locate(paths[-1] + step)


@pytest.mark.parametrize("mode", REMAPPING)
def test_all_numbers_then_enfile(mode: str) -> None:
    last = LAST_COUNTER[mode]
    mapper = Mapper(mode, source=Allocator(index=65535, counter=last - 1))
    known = mapper.path("a", 5)
    one, two = mapper.path("b", 5), mapper.path("b", 6)
    assert 2 <= one < two <= MASK64 - 2
    assert two == (last if mode == "prefix" else last << FULL.length | FULL.bits)
    for _ in range(2):
        for device, inode in (("b", 7), ("c", 5), ("a", 1 << 48)):
            with pytest.raises(MappingExhausted, match="numbers of the full map are given") as caught:
                mapper.path(device, inode)
            assert caught.value.errno == errno.ENFILE
            assert mapper.peek(device, inode) is None
    # Whoever has a number keeps it, and inodes under an entry still get theirs.
    assert [mapper.path("a", 5), mapper.path("b", 5), mapper.path("b", 6)] == [known, one, two]
    assert mapper.locate(mapper.path("a", 77)) == ("a", 77)
    assert (mapper.used(), mapper.full_used()) == (1, 2)


def test_exhaustion_meets_a_reserved_number() -> None:
    mapper = Mapper(source=Allocator(counter=2**31))
    with pytest.raises(MappingExhausted):
        mapper.path("d", 0)
    assert mapper.path("d", 1) == 3
    assert mapper.peek("d", 0) is None


@pytest.mark.parametrize("k", range(9))
def test_the_full_map_has_room_for_what_its_affix_leaves(k: int) -> None:
    room = (1 << 64 - suffix(65536, k).length) - 1
    mapper, model = Mapper(k=k, source=Allocator(65536, room)), SuffixModel(k, 65536, room)
    assert mapper.path("d", 5) == model.path("d", 5)
    for exhausted in (mapper, model):
        with pytest.raises(OSError, match=r"exhausted|numbers of the full map") as caught:
            exhausted.path("d", 6)
        assert caught.value.errno == errno.ENFILE


def test_the_model_of_prefix_agrees_on_the_end() -> None:
    mapper, model = Mapper("prefix", source=Allocator(65536, 2**48 - 1)), PrefixModel(0, 65536, 2**48 - 1)
    assert mapper.path("d", 5) == model.path("d", 5) == 2**48 - 1
    with pytest.raises(MappingExhausted):
        mapper.path("d", 6)


def test_exhaustion_is_an_error_of_ours_and_of_the_systems() -> None:
    error = MappingExhausted("none left")
    assert isinstance(error, FusemapError)
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror) == (errno.ENFILE, "none left")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(twin), twin.errno, str(twin)) == (MappingExhausted, errno.ENFILE, str(error))
