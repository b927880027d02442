"""`take`: the census of a tree. Everything that any picture shows is in the `Census` that it returns."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from fusemap.census.collide import HARMS, PART, Collision, Found, find
from fusemap.census.numbers import BITS, SCHEMES, Numbering, Tops, numbering, upper_halves
from fusemap.census.spill import Indices, Numbers, Rows, Spill
from fusemap.census.walk import Unreadable, Walk
from fusemap.qid import Affix, Mapper, kraft

COLUMNS: Final = 48
"""Columns of a lane."""

_SAMPLE: Final = 1 << 16

Progress = Callable[[str, int, int, "float | None"], None]
"""Is told several times a second what is done (a verb form), of how many names, and how many devices there are; and
what part of it is over, from 0 to 1, None where that cannot be known."""


class Scheme(NamedTuple):
    """What a scheme does to the tree. Counts are by harm (HARMS); `expected` is the birthday estimate of `pairs`.

    `full` files have a number from the full map, those that a table has there included; for `numberless` ones it has
    none left.
    """

    name: str
    groups: dict[str, int]
    files: dict[str, int]
    pairs: int
    expected: float
    bits: int
    full: int
    numberless: int

    @property
    def collides(self) -> bool:
        """Whether any two files have one number."""
        return self.pairs > 0


class Device(NamedTuple):
    """A device of the tree. `place` is relative to the top; `entries` are index and affix of each, in mode suffix.

    `colliding` says of how many of its files the number is another's as well, by scheme.
    """

    key: str
    lasting: bool
    dev: int
    kind: str
    place: bytes
    names: int
    files: int
    highest: int
    entries: list[tuple[int, Affix]]
    colliding: dict[str, int]


class Lanes(NamedTuple):
    """Files and colliding files of each device (row) by inode (column), for drawing.

    All devices share the columns, which are as wide as makes each hold about as many files: so one column is the same
    inodes in every lane. `edges` are the inodes at which columns begin.
    """

    edges: list[int]
    files: Indices
    colliding: Indices


class Census:
    """A tree as it was when it was walked. Close it, or use `with`: collisions are on disk until then."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.chosen: tuple[str, ...] = ()
        self.names = 0
        """Names in the tree, its top included: what find would print."""
        self.files = 0
        """Files, directories among them; one that has several names is one."""
        self.vanished = 0
        self.unreadable: list[Unreadable] = []
        self.unnamed = 0
        """How many more places could not be read than `unreadable` names."""
        self.devices: list[Device] = []
        self.schemes: dict[str, Scheme] = {}
        self.entries = 0
        """Affixes that mode suffix uses, those in a table for devices that are not here included."""
        self.spent = Fraction(0)
        """How much of the 64-bit space the affixes take up; the rest is left for more devices."""
        self.from_table = False
        """Whether the numbers of mode suffix are those of the tree's table, and not just such as it would get."""
        self.seconds = 0.0
        """How long the walk took."""
        self._found: dict[str, Found] = {}
        self._numberings: dict[str, Numbering] = {}
        self._rows: Rows
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Census:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the disk space back; what is in the attributes stays."""
        self._stack.close()

    @property
    def full(self) -> int:
        """Files that have a number of their own in mode suffix, from the full map."""
        return self.schemes["suffix"].full

    @property
    def numberless(self) -> int:
        """Files that mode suffix has no number for, since the full map is full; a mount shows them as ENFILE."""
        return self.schemes["suffix"].numberless

    @property
    def collides(self) -> bool:
        """Whether a chosen scheme gives two files one number."""
        return any(self.schemes[name].collides for name in self.chosen)

    def collisions(self, scheme: str, harms: Sequence[str] = HARMS) -> Iterator[Collision]:
        """Every collision of a chosen scheme, the most harmful first. KeyError for one that was not chosen."""
        return self._found[scheme].collisions(self._rows, harms)

    def begun(self, scheme: str, harm: str, most: int) -> Iterator[tuple[Collision, int]]:
        """As `collisions` of one degree of harm, with so many members at most, and how many there are in all."""
        return self._found[scheme].begun(self._rows, harm, most)

    def numbers(self, scheme: str) -> Iterator[Numbers]:
        """The number of every name in a scheme, many at a time; 0 for one from the full map that is not known yet."""
        return (self._numberings[scheme](chunk) for chunk in self._rows.chunks())

    def colliding(self, scheme: str) -> Iterator[Numbers]:
        """The number of every colliding file of a chosen scheme, many at a time."""
        return self._found[scheme].numbers()

    def lanes(self, scheme: str) -> Lanes:
        """The lanes of a chosen scheme. KeyError for one that was not chosen."""
        found = self._found[scheme]
        step = max(1, len(self._rows) // _SAMPLE)
        sample = np.concatenate([chunk.inode[::step] for chunk in self._rows.chunks()])
        sample.sort()
        edges = np.unique(sample[np.arange(COLUMNS) * len(sample) // COLUMNS])
        edges[0] = 0
        count, width = len(self.devices), len(edges)
        totals = [np.zeros(count * width, dtype=np.int64) for _ in range(2)]
        every = ((chunk.device, chunk.inode) for chunk in self._rows.chunks())
        for total, some in zip(totals, (every, found.members()), strict=True):
            for device, inode in some:
                cell = device * width + np.searchsorted(edges, inode, "right") - 1
                total += np.bincount(cell, minlength=count * width)
        return Lanes(edges.tolist(), totals[0].reshape(count, width), totals[1].reshape(count, width))


def take(
    root: str,
    chosen: Sequence[str] = ("suffix",),
    *,
    mapper: Mapper | None = None,
    names: Mapping[str, str] | None = None,
    progress: Progress = lambda doing, names, devices, done: None,
    directory: str | None = None,
    part: int = PART,
) -> Census:
    """Walk the tree at `root` and find what collides in every scheme; of the `chosen` ones, which files and where.

    `mapper` is one that knows the tree's lasting numbers, for its mode; it learns of what it does not know yet. `names`
    are administrators' names of devices by absolute path. `directory` is where files go while the census is open.
    Raises Refused where the tree cannot be read or `directory` is full, ValueError for an unknown scheme.
    """
    for name in chosen:
        if name not in SCHEMES:
            raise ValueError(f"the scheme must be one of {', '.join(SCHEMES)}, not {name!r}")
    census = Census(root)
    try:
        census.chosen = tuple(dict.fromkeys(chosen))
        spill = census._stack.enter_context(Spill(directory))
        walk = Walk(root, spill, names)
        began = time.monotonic()
        walk.run(partial(progress, "walking"))
        census.seconds = time.monotonic() - began
        _count(census, walk, spill, mapper, progress, part, directory)
    except BaseException:
        census.close()
        raise
    return census


def expected_pairs(files: int, bits: int) -> float:
    """How many pairs of `files` would have one number if each drew one of 2^bits by chance (the birthday problem)."""
    return math.ldexp(float(files * (files - 1)), -bits - 1)


def _count(
    census: Census, walk: Walk, spill: Spill, mapper: Mapper | None, progress: Progress, part: int,
    directory: str | None,
) -> None:  # fmt: skip
    devices = sorted(walk.devices, key=lambda met: (met.place != b".", met.place))
    rank = [0] * len(devices)
    for index, met in enumerate(devices):
        rank[met.index] = index
    census._rows = rows = spill.rows_of(rank)
    census.names, census.vanished = len(rows), walk.vanished
    census.unreadable, census.unnamed = sorted(walk.unreadable), walk.unnamed
    halves, highest, names = upper_halves(rows.chunks(), len(devices))
    tops = [Tops(met.identity.key, met.dev, met.top, some) for met, some in zip(devices, halves, strict=True)]

    census.from_table = mapper is not None and mapper.mode == "suffix"
    suffix = mapper if mapper is not None and census.from_table else Mapper("suffix")
    for at, name in enumerate(SCHEMES):
        own = suffix if name == "suffix" else mapper if mapper is not None and mapper.mode == name else None
        before = 0 if own is None else own.full_used()
        numbers = census._numberings[name] = numbering(name, tops, own)

        def told(part: float, at: int = at, name: str = name) -> None:
            progress(f"comparing {name}", len(rows), len(devices), (at + part) / len(SCHEMES))

        found = find(rows, numbers, len(devices), name in census.chosen, directory, part, told)
        census._found[name] = found
        census._stack.callback(found.close)
        if name == "raw":
            census.files = len(rows) - found.again
        room, bits = numbers.room(), BITS.get(name, 64)
        numberless = 0 if room is None else max(0, found.own - room)
        census.schemes[name] = Scheme(
            name, found.groups, found.files, found.pairs, expected_pairs(census.files, bits), bits,
            before + found.own - numberless, numberless,
        )  # fmt: skip
    again = census._found["raw"]
    entries: dict[object, list[tuple[int, Affix]]] = {}
    for entry in suffix.entries():
        entries.setdefault(entry.device, []).append((entry.index, Affix(entry.affix, entry.length)))
        census.entries += 1
    census.spent = kraft(affix.length for some in entries.values() for _, affix in some)
    for index, met in enumerate(devices):
        colliding = {name: int(found.colliding_on[index]) for name, found in census._found.items()}
        census.devices.append(
            Device(
                met.identity.key, met.identity.lasting, met.dev, met.kind, met.place, names[index],
                names[index] - int(again.again_on[index]), highest[index], entries.get(met.identity.key, []),
                colliding,
            )
        )  # fmt: skip
