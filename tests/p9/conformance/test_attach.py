"""Tattach and Tauth: attach(5). What a name in aname means is the server's own; what it may not reach is not."""

from __future__ import annotations

import os

import pytest

from fusemap.p9.messages import NOFID, NONUNAME, Rlerror, Tattach, Tauth, Tclunk, Tgetattr, Twalk

from .numbers import ENOENT, QT_DIR, QT_SYMLINK
from .place import Place


def only_ours(place: Place) -> None:
    """The case is a promise of fusemap and not of the protocol."""
    if not place.target.ours:
        pytest.skip("what aname means is the server's own")


def test_the_root_is_a_directory(place: Place) -> None:
    fid = place.target.attach(place.client)
    assert place.client.qid(fid).type == QT_DIR
    assert place.client.getattr(fid).mode >> 12 == 4


@pytest.mark.parametrize("name", ["empty", "slash", "absolute", "absolute-slash"])
def test_names_of_the_root(place: Place, name: str) -> None:
    only_ours(place)
    source = os.fsencode(place.target.export)
    aname = {"empty": b"", "slash": b"/", "absolute": source, "absolute-slash": source + b"/"}[name]
    assert place.client.qid(place.client.attach(aname)) == place.client.qid(place.client.root)


@pytest.mark.parametrize("form", ["{}", "/{}", "{}/", "{source}/{}"])
def test_a_directory_below_the_root(place: Place, form: str) -> None:
    only_ours(place)
    (place / "a" / "b").mkdir(parents=True)
    name = form.format("/".join((*place.steps, "a", "b")), source=place.target.export)
    fid = place.client.attach(os.fsencode(name))
    assert place.client.qid(fid) == place.client.qid(place.walk("a", "b"))


def test_a_mount_point_below_the_root(place: Place) -> None:
    only_ours(place)
    for path in place.mounts():
        assert place.client.qid(place.client.attach(os.fsencode(path.name))).type == QT_DIR


MISSING = {
    "missing": b"missing", "absolute": b"/missing", "deeper": b"/missing/deeper",
    "long": b"a" * 300, "NUL": b"a\0b", "no-text": b"\xff",
}  # fmt: skip


@pytest.mark.parametrize("form", MISSING)
def test_a_missing_name_is_refused(place: Place, form: str) -> None:
    name = MISSING[form]
    client = place.client
    fid = client.new_fid()
    client.fails(Tattach(fid, NOFID, b"root", name, 0), *([ENOENT] if form == "missing" and place.target.ours else []))
    client.fails(Tgetattr(fid, 0x7FF))


@pytest.mark.parametrize("name", [b"..", b"/..", b"/../..", b"../../etc", b"/etc", b"./../..", b"/proc/self/root"])
def test_no_name_leads_out_of_the_export(place: Place, name: bytes) -> None:
    client = place.client
    fid = client.new_fid()
    answer = client.ask(Tattach(fid, NOFID, b"root", name, 0))
    assert isinstance(answer, Rlerror) or answer.qid == client.qid(client.root)


@pytest.mark.parametrize("aim", ["/", "/etc", "../../..", ".."])
def test_no_symlink_leads_out_of_the_export(place: Place, aim: str) -> None:
    os.symlink(aim, place / "link")
    client = place.client
    for end in ("", "/etc"):
        fid = client.new_fid()
        name = os.fsencode("/".join((*place.steps, "link")) + end)
        answer = client.ask(Tattach(fid, NOFID, b"root", name, 0))
        assert isinstance(answer, Rlerror) or answer.qid.type == QT_SYMLINK


def test_a_file_is_no_directory(place: Place) -> None:
    place.file("f", b"content")
    client = place.client
    fid = client.new_fid()
    answer = client.ask(Tattach(fid, NOFID, b"root", os.fsencode("/".join((*place.steps, "f"))), 0))
    assert isinstance(answer, Rlerror) or answer.qid == client.qid(place.walk("f"))


def test_a_fid_in_use_is_refused_and_stays(place: Place) -> None:
    client = place.client
    before = client.qid(place.fid)
    client.fails(Tattach(place.fid, NOFID, b"root", b"", 0))
    client.fails(Tattach(place.fid, NOFID, b"root", os.fsencode(place.target.export), 0))
    assert client.qid(place.fid) == before


def test_many_attaches_stand_beside_each_other(place: Place) -> None:
    client = place.client
    fids = [place.target.attach(client) for _ in range(20)]
    assert len({client.qid(fid) for fid in fids}) == 1
    client.clunk(fids[0])
    assert client.qid(fids[1]) == client.qid(client.root)


def test_an_afid_that_is_none_is_refused(place: Place) -> None:
    client = place.client
    for afid in (77777, client.root):
        for aname in (b"", os.fsencode(place.target.export)):
            client.fails(Tattach(client.new_fid(), afid, b"root", aname, 0))
    assert client.qid(client.root).type == QT_DIR


@pytest.mark.parametrize("uname", [b"root", b"", b"nobody-of-that-name"])
def test_a_numeric_user_counts_whatever_the_name(place: Place, uname: bytes) -> None:
    client = place.client
    for aname in (b"", os.fsencode(place.target.export)):
        answer = client.ask(Tattach(client.new_fid(), NOFID, uname, aname, 0))
        if not isinstance(answer, Rlerror):
            return
    raise AssertionError(f"user 0 by the name {uname!r} may not attach")


def test_no_user_at_all_is_answered(place: Place) -> None:
    client = place.client
    client.ask(Tattach(client.new_fid(), NOFID, b"", b"", NONUNAME))
    client.ask(Tattach(client.new_fid(), NOFID, b"nobody-of-that-name", b"", NONUNAME))
    assert client.qid(client.root).type == QT_DIR


def test_auth_is_refused_and_leaves_no_fid(place: Place) -> None:
    client = place.client
    afid = client.new_fid()
    client.fails(Tauth(afid, b"root", b"", 0))
    client.fails(Tgetattr(afid, 0x7FF))
    client.fails(Twalk(afid, client.new_fid(), ()))
    client.fails(Tclunk(afid))
