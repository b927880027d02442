"""Ranges against a model of single bytes: the table, and the kernel with it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusemap.p9.locks import BLOCKED, RDLCK, SUCCESS, UNLCK, WRLCK
from fusemap.p9.ranges import find, put, splits

from .support import LAST, Session, checked

BYTES = 12
kinds = st.sampled_from((RDLCK, WRLCK, UNLCK))
spans = st.tuples(st.integers(0, BYTES - 1), st.integers(0, BYTES)).map(lambda s: (s[0], min(s[1], BYTES - s[0])))
steps = st.lists(st.tuples(st.integers(0, 2), spans, kinds), max_size=30)
Steps = list[tuple[int, tuple[int, int], int]]


def model_of(ranges: list[tuple[int, int, int]]) -> list[int]:
    model = [UNLCK] * (BYTES + 1)  # the last stands for everything beyond
    for start, end, kind in ranges:
        for byte in range(start, min(end, BYTES) + 1):
            model[byte] = kind
    return model


@given(steps)
def test_the_table_of_ranges_is_that_of_single_bytes(steps: Steps) -> None:
    ranges: list[tuple[int, int, int]] = []
    model = [UNLCK] * (BYTES + 1)
    for _, (start, length), kind in steps:
        end = start + length - 1 if length else LAST
        apart = len(ranges)
        splitting = splits(ranges, start, end)
        put(ranges, start, end, None if kind == UNLCK else kind)
        assert kind != UNLCK or (len(ranges) > apart) is splitting
        for byte in range(start, min(end, BYTES) + 1):
            model[byte] = kind
        assert model_of(ranges) == model
        for byte in range(BYTES + 1):
            found = find(ranges, byte, byte)
            assert (found[2] if found else UNLCK) == model[byte]
        for (_, end, kind), (start, _, other) in itertools.pairwise(ranges):
            assert end < start, "sorted and apart"
            assert end + 1 < start or kind != other, "neighbours are one"


@settings(max_examples=60, deadline=None)
@given(steps)
def test_three_owners_lock_as_a_model_of_single_bytes_does(
    tmp_path_factory: pytest.TempPathFactory, steps: Steps
) -> None:
    path = tmp_path_factory.mktemp("model") / "file"
    path.touch()
    models = [[UNLCK] * (BYTES + 1) for _ in range(3)]
    with checked() as locks:
        sessions = [Session(locks, path, f"{n}") for n in range(3)]
        for n, (start, length), kind in steps:
            touched = range(start, min(start + length, BYTES + 1) if length else BYTES + 1)
            others = [model for model in models if model is not models[n]]
            free = kind == UNLCK or not any(
                other[byte] == WRLCK or (other[byte] == RDLCK and kind == WRLCK) for other in others for byte in touched
            )
            if kind != UNLCK:
                assert (sessions[n].test(kind, start, length).type == UNLCK) is free
            assert sessions[n].lock(kind, start, length) == (SUCCESS if free else BLOCKED)
            if free:
                for byte in touched:
                    models[n][byte] = kind
            for session, model in zip(sessions, models, strict=True):
                owner = locks._owners.get((session.name, session.node, session.name.encode(), 1))
                assert (owner is None) is all(kind == UNLCK for kind in model), "a descriptor for locks only"
                assert model_of(owner.ranges if owner else []) == model
            assert sum(client.ranges for client in locks._owners._clients.values()) == sum(
                len(owner.ranges) for owner in locks._owners._owners.values()
            )
