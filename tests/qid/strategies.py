"""What the property tests are fed: inodes that are out to collide, devices, and where numbering starts."""

from __future__ import annotations

from collections.abc import Hashable

from hypothesis import strategies as st

MASK64 = (1 << 64) - 1

# Runs of ones or zeros from either end, and their neighbours: shifts lose them, or make reserved numbers.
_RUNS = [base for bits in range(65) for base in (1 << bits, MASK64 ^ (1 << bits) - 1)]
_EDGES = sorted({base + step & MASK64 for base in _RUNS for step in (-2, -1, 0, 1)})

edges = st.sampled_from(_EDGES)
topped = st.builds(
    lambda top, bits, low: top << 64 - bits & MASK64 | low, st.integers(0, 63), st.integers(1, 35), edges
)
inodes = st.one_of(
    st.integers(0, 300),
    edges,
    topped,
    st.integers(0, MASK64),
    # As overlayfs with xino=on: a layer number above an ordinary inode.
    st.builds(lambda layer, inode: layer << 59 | inode, st.integers(0, 31), st.integers(0, 20)),
)
devices: st.SearchStrategy[Hashable] = st.one_of(
    st.integers(0, 3),
    st.integers(0, 5000),
    st.sampled_from(["home", "usr"]),
    st.tuples(st.text(max_size=2)),
)
files = st.lists(st.tuples(devices, inodes), max_size=60)
orders = st.integers(0, 8)

# The first index: where lengths are short, in between, right before one grows, and where indices run out.
starts = st.one_of(
    st.just(1),
    st.integers(1, 70),
    st.builds(lambda b: (1 << b) - 2, st.integers(2, 16)),
    st.integers(65500, 65536),
)
