"""QIDs: one for a file, the same wherever it is told, and never that of another file.

intro(5): two files of a server are the same if and only if their QIDs' paths are. Linux's client makes inode numbers of
them, and since 6.4 caches only what has a version other than 0.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from fusemap.p9.messages import Tlcreate, Tlopen, Tmkdir
from fusemap.qid import QID

from .numbers import GETATTR_BASIC, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, QT_DIR
from .place import Place


def everywhere(place: Place, name: str) -> list[QID]:
    """The QID of a file as walk, getattr, lopen and readdir tell it."""
    wire = os.fsencode(name)
    fid, walked = place.twalk(place.fid, wire)
    told = [walked[0], place.client.qid(fid)]
    if not (place / name).is_symlink():
        told.append(place.client.call(Tlopen(fid, O_RDONLY)).qid)
    told += [entry.qid for entry in place.client.list(place.open()) if entry.name == wire]
    return told


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_it_is_the_same_everywhere(place: Place, kind: str) -> None:
    if kind == "file":
        place.file(kind, b"content")
    elif kind == "directory":
        (place / kind).mkdir()
    else:
        os.symlink("aim", place / kind)
    told = everywhere(place, kind)
    assert len(told) >= 3
    assert len(set(told)) == 1
    assert everywhere(place, kind) == told


@pytest.mark.parametrize("kind", ["file", "empty", "directory"])
def test_the_version_is_not_0(place: Place, kind: str) -> None:
    """Linux since 6.4 caches nothing of a file whose version is 0."""
    if kind == "directory":
        (place / kind).mkdir()
    else:
        place.file(kind, b"content" if kind == "file" else b"")
        os.utime(place / kind, ns=(0, 0))
    assert all(qid.version for qid in everywhere(place, kind))


def test_the_version_follows_the_content(place: Place) -> None:
    path = place.file("f", b"content")
    versions = [place.client.qid(place.walk("f")).version]
    fid = place.open("f", flags=O_RDWR)
    place.client.write(fid, b"CONTENT")
    versions.append(place.client.qid(fid).version)
    path.write_bytes(b"by the host")
    versions.append(place.client.qid(place.walk("f")).version)
    if not any(versions):
        pytest.skip("the server has no versions")
    assert len(set(versions)) == 3


def test_the_version_stays_while_nothing_is_written(place: Place) -> None:
    place.file("f", b"content")
    before = place.client.qid(place.walk("f"))
    fid = place.open("f")
    place.client.read(fid)
    assert place.client.qid(fid) == before == place.client.qid(place.walk("f"))


def test_another_connection_is_told_the_same(place: Place) -> None:
    place.file("f", b"content")
    other = place.connect()
    assert other.qid(place.walk("f", client=other)) == place.client.qid(place.walk("f"))


def test_hard_links_are_one_file(place: Place) -> None:
    place.file("f", b"content")
    os.link(place / "f", place / "g")
    assert place.client.qid(place.walk("f")) == place.client.qid(place.walk("g"))


def test_many_files_have_as_many_paths(place: Place) -> None:
    for n in range(200):
        place.file(str(n))
    assert len({entry.qid.path for entry in place.client.list(place.open())}) == 202


def test_no_two_files_of_different_file_systems_have_one_path(place: Place) -> None:
    """Their inode numbers are the same again and again: 2, 256, 257 and so on."""
    mounts = place.mounts()
    client = place.client
    places = [Place(place.target, below=path) for path in mounts]
    try:
        paths: Counter[int] = Counter()
        for one in (place, *places):
            for n in range(20):
                one.file(str(n))
                paths[client.qid(client.walk(client.root, *one.steps, str(n))).path] += 1
            if one is not place:
                paths[client.qid(client.walk(client.root, one.steps[0])).path] += 1
            paths[client.qid(client.walk(client.root, *one.steps)).path] += 1
        twice = [path for path, times in paths.items() if times > 1]
        assert not twice, f"{len(twice)} of {len(paths)} paths stand for more than one file"
    finally:
        for one in places:
            one.close()


def test_what_is_made_tells_the_qid_of_what_is_there(place: Place) -> None:
    fid = place.walk()
    made = place.client.call(Tlcreate(fid, b"f", O_RDWR | O_CREAT | O_EXCL, 0o644, 0)).qid
    assert made == place.client.qid(fid) == place.client.qid(place.walk("f"))
    made = place.client.call(Tmkdir(place.fid, b"d", 0o755, 0)).qid
    assert made == place.client.qid(place.walk("d"))
    assert made.type == QT_DIR


def test_a_renamed_file_keeps_its_path(place: Place) -> None:
    place.file("f")
    (place / "d").mkdir()
    before = place.client.qid(place.walk("f")).path
    os.rename(place / "f", place / "d" / "g")
    assert place.client.qid(place.walk("d", "g")).path == before


def test_a_file_that_takes_the_name_of_another_is_another(place: Place) -> None:
    place.file("f")
    fid = place.walk("f")
    before = place.client.qid(fid)
    place.file("g", b"another")
    os.rename(place / "g", place / "f")
    assert place.client.getattr(place.walk("f"), GETATTR_BASIC).qid.path != before.path
