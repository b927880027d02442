"""What `prefix` and `suffix` promise: different files have different numbers, and every number leads back."""

from __future__ import annotations

import random
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemap.qid import Allocator, Mapper

from .models import MASK64, RESERVED, PrefixModel, QemuModel, SuffixModel
from .strategies import files, inodes, orders, starts

UNIQUE = ["prefix", "suffix"]
REMAPPING = ["prefix", "qemu", "suffix"]

Files = list[tuple[Hashable, int]]

plain = st.integers(0, 2**31 - 1) | st.integers(0, 2)


@pytest.mark.parametrize("mode", UNIQUE)
@given(files=files, k=orders, start=starts)
def test_different_files_have_different_numbers(mode: str, files: Files, k: int, start: int) -> None:
    mapper = Mapper(mode, k, source=Allocator(index=start))
    paths = {file: mapper.path(*file) for file in files}
    assert len(set(paths.values())) == len(paths)
    for file, path in reversed(paths.items()):
        assert mapper.path(*file) == mapper.peek(*file) == path
        assert mapper.locate(path) == file


@pytest.mark.parametrize("mode", UNIQUE)
@given(files=files, k=orders, start=starts, shuffle=st.randoms(use_true_random=False))
def test_numbers_are_unique_in_whatever_order_files_are_seen(
    mode: str, files: Files, k: int, start: int, shuffle: random.Random
) -> None:
    shuffle.shuffle(files)
    mapper = Mapper(mode, k, source=Allocator(index=start))
    assert len({mapper.path(*file) for file in files}) == len(set(files))


@given(files=files, k=orders, start=starts)
def test_numbers_are_the_models(files: Files, k: int, start: int) -> None:
    for mode, model in (("prefix", PrefixModel(k, start)), ("suffix", SuffixModel(k, start))):
        mapper = Mapper(mode, k, source=Allocator(index=start))
        assert [mapper.path(*file) for file in files] == [model.path(*file) for file in files]
        assert mapper.used() == len(model.entries)
        assert mapper.full_used() == len(model.full)


@pytest.mark.parametrize("mode", UNIQUE)
def test_thousands_of_devices_with_inodes_out_to_collide(mode: str) -> None:
    rng = random.Random(mode)
    tops = [0, 1 << 63, 1 << 62, 0xF << 60, 0x7FF << 53, MASK64 ^ (1 << 31) - 1, 1 << 33, 1 << 48]
    some = [top + low & MASK64 for top in tops for low in (-1, 0, 1, 5, (1 << 31) - 1)]
    pairs = {(device, inode) for device in range(3000) for inode in rng.sample(some, 10)}
    order = sorted(pairs)
    rng.shuffle(order)
    mapper = Mapper(mode)
    paths = {mapper.path(device, inode): (device, inode) for device, inode in order}
    assert len(paths) == len(pairs)
    assert not RESERVED & set(paths)
    for path, file in paths.items():
        assert mapper.locate(path) == file


@pytest.mark.parametrize("mode", REMAPPING)
@given(files=files, k=orders, start=starts)
def test_reserved_numbers_are_never_given(mode: str, files: Files, k: int, start: int) -> None:
    mapper = Mapper(mode, k, source=Allocator(index=start))
    for file in files:
        path = mapper.path(*file)
        assert 2 <= path <= MASK64 - 2
    for path in RESERVED:
        with pytest.raises(LookupError):
            mapper.locate(path)


@pytest.mark.parametrize("mode", REMAPPING)
@given(
    files=files, k=orders, start=starts, path=inodes | st.integers(-10, 1 << 65), low=st.integers(0, 1 << 20)
)
def test_the_inverse_answers_only_with_what_is_there(
    mode: str, files: Files, k: int, start: int, path: int, low: int
) -> None:
    mapper = Mapper(mode, k, source=Allocator(index=start))
    near = [mapper.path(*file) ^ low for file in files]
    for number in (path, *near):
        try:
            device, inode = mapper.locate(number)
        except LookupError:
            continue
        assert mapper.peek(device, inode) == number


@given(files=st.lists(st.tuples(st.integers(0, 40), plain), max_size=60), k=orders, start=starts)
def test_suffix_equals_qemu_where_top_bits_are_clear(files: Files, k: int, start: int) -> None:
    ours, theirs = (Mapper(mode, k, source=Allocator(start)) for mode in ("suffix", "qemu"))
    real = QemuModel(k, start & 0xFFFF)
    for file in files:
        path = ours.path(*file)
        assert path == theirs.path(*file)
        if not ours.full_used():
            assert path == real.path(*file)


@pytest.mark.parametrize("mode", REMAPPING)
@given(files=files, k=orders)
def test_peek_makes_nothing(mode: str, files: Files, k: int) -> None:
    mapper = Mapper(mode, k)
    for file in files[::2]:
        mapper.path(*file)
    before = list(mapper.entries()), list(mapper.full())
    for file in files:
        known = mapper.peek(*file)
        assert known is None or mapper.locate(known)[0] == file[0]
    assert before == (list(mapper.entries()), list(mapper.full()))
    for file in files:
        known = mapper.peek(*file)
        assert known in (None, mapper.path(*file))
