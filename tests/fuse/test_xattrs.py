"""Extended attributes through the mount."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ..support.house import Failed, House, Pair, same, tried
from ..support.process import ALICE, BOB, call_as


def attributes(path: Path) -> dict[str, bytes]:
    """All extended attributes that the caller sees."""
    return {name: os.getxattr(path, name) for name in sorted(os.listxattr(path))}


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_set_get_list_remove(pair: Pair, kind: str) -> None:
    def work(path: Path) -> list[Any]:
        path = path / "x"
        path.mkdir() if kind == "directory" else path.write_text("")
        told: list[Any] = []
        for name, value in (("user.a", b"1"), ("user.empty", b""), ("user.bytes", bytes(range(256)))):
            os.setxattr(path, name, value)
            told.append(attributes(path))
        os.setxattr(path, "user.a", b"another")
        told.append(attributes(path))
        os.removexattr(path, "user.empty")
        told.append(attributes(path))
        return told

    told = same(pair, work, ALICE)
    assert isinstance(told, list)
    assert told[-1] == {"user.a": b"another", "user.bytes": bytes(range(256))}
    assert attributes(next(pair.host.iterdir())) == told[-1]


@pytest.mark.parametrize("flags", [os.XATTR_CREATE, os.XATTR_REPLACE])
@pytest.mark.parametrize("there", [True, False])
def test_create_and_replace(pair: Pair, flags: int, there: bool) -> None:
    def work(path: Path) -> dict[str, bytes]:
        (path / "f").write_text("")
        if there:
            os.setxattr(path / "f", "user.a", b"old")
        os.setxattr(path / "f", "user.a", b"new", flags)
        return attributes(path / "f")

    told = same(pair, work, ALICE)
    if (flags == os.XATTR_CREATE) == there:
        assert told == Failed("EEXIST" if there else "ENODATA")


ODD_NAMES = ["user.missing", "user.", "nonsense", "user." + "n" * 250, "user." + "n" * 251, "trusted.x", "system.x", ""]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_that_are_not_there_or_not_possible(pair: Pair, name: str) -> None:
    def get(path: Path) -> bytes:
        (path / "f").write_text("")
        return os.getxattr(path / "f", name)

    def put(path: Path) -> bytes:
        os.setxattr(path / "f", name, b"value")
        return os.getxattr(path / "f", name)

    for work in (get, put, lambda path: os.removexattr(path / "f", name)):
        same(pair, work, ALICE)


@pytest.mark.parametrize("part", ["xfs", "tmpfs", "subvol-a", "overlay"])
@pytest.mark.parametrize("size", [1, 4000, 16000, 65535, 65536, 65537])
def test_large_values(house: House, part: str, size: int) -> None:
    pair = house.pair("large", part)
    (pair.host / "a").write_text("")
    (pair.host / "b").write_text("")
    value = os.urandom(size)

    def put(path: Path) -> Any:
        return tried(lambda: os.setxattr(path, "user.large", value))

    # On the host by one name, through the mount by another: the same file system answers, so the same answer.
    done = put(pair.host / "a")
    assert put(pair.seen / "b") == done
    if done is None:
        assert os.getxattr(pair.seen / "b", "user.large") == os.getxattr(pair.seen / "a", "user.large") == value
    else:
        assert os.listxattr(pair.seen / "b") == []


def test_many_attributes(pair: Pair, house: House) -> None:
    pair = house.pair("many", "tmpfs")
    (pair.host / "f").write_text("")
    names = [f"user.attribute-{n:04d}" for n in range(1000)]
    for n, name in enumerate(names):
        os.setxattr(pair.host / "f", name, b"%d" % n)
    assert sorted(os.listxattr(pair.seen / "f")) == names
    assert os.getxattr(pair.seen / "f", names[-1]) == b"999"


def test_trusted_attributes_are_for_root(pair: Pair) -> None:
    for top in (pair.host, pair.twin):
        (top / "f").write_text("")
        (top / "f").chmod(0o666)
        os.setxattr(top / "f", "trusted.secret", b"s")
        os.setxattr(top / "f", "user.open", b"o")
    assert same(pair, lambda path: os.listxattr(path / "f"), ALICE) == ["user.open"]
    assert same(pair, lambda path: sorted(os.listxattr(path / "f"))) == ["trusted.secret", "user.open"]
    assert same(pair, lambda path: os.getxattr(path / "f", "trusted.secret")) == b"s"
    assert isinstance(same(pair, lambda path: os.getxattr(path / "f", "trusted.secret"), ALICE), Failed)
    assert isinstance(same(pair, lambda path: os.setxattr(path / "f", "trusted.mine", b"x"), ALICE), Failed)


def test_permissions_are_the_files(pair: Pair) -> None:
    for top in (pair.host, pair.twin):
        (top / "f").write_text("")
        os.setxattr(top / "f", "user.a", b"1")
        os.chown(top / "f", ALICE.uid, ALICE.gid)
        (top / "f").chmod(0o640)
    for work in (
        lambda path: os.getxattr(path / "f", "user.a"),
        lambda path: os.setxattr(path / "f", "user.a", b"2"),
        lambda path: os.removexattr(path / "f", "user.a"),
    ):
        assert isinstance(same(pair, work, BOB), Failed)
        assert not isinstance(same(pair, work, ALICE), Failed)


@pytest.mark.parametrize("make", [lambda path: os.symlink("f", path), os.mkfifo], ids=["symlink", "fifo"])
def test_special_files_and_symlinks_take_no_user_attributes(pair: Pair, make: Any) -> None:
    def work(path: Path) -> None:
        make(path / "special")
        os.setxattr(path / "special", "user.a", b"1", follow_symlinks=False)

    assert same(pair, work) == Failed("EPERM")

    def trusted(path: Path) -> list[str]:
        os.setxattr(path / "special", "trusted.a", b"1", follow_symlinks=False)
        return os.listxattr(path / "special", follow_symlinks=False)

    assert same(pair, trusted) == ["trusted.a"]
    assert os.listxattr(pair.host / "special", follow_symlinks=False) == ["trusted.a"]


def test_capabilities_of_a_program_go_when_it_is_written(pair: Pair) -> None:
    value = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service+ep, revision 2

    def work(path: Path) -> list[Any]:
        (path / "program").write_bytes(b"#!/bin/true")
        os.setxattr(path / "program", "security.capability", value)
        before = os.listxattr(path / "program")
        with open(path / "program", "ab") as file:
            file.write(b"\n")
        return [before, os.listxattr(path / "program")]

    assert same(pair, work) == [["security.capability"], []]


def test_where_a_file_is_on_the_host(pair: Pair) -> None:
    (pair.host / "f").write_text("")
    told = {name: os.getxattr(pair.seen / "f", f"user.fusemap.{name}") for name in ("inode", "qid", "device")}
    assert int(told["inode"]) == os.stat(pair.host / "f").st_ino
    assert int(told["qid"].split(b"/")[2]) == os.stat(pair.seen / "f").st_ino
    assert told["device"]


def test_the_virtual_attributes_are_not_listed_and_cannot_be_changed(pair: Pair) -> None:
    (pair.host / "f").write_text("")
    assert os.listxattr(pair.seen / "f") == []
    for name in ("user.fusemap.inode", "user.fusemap.other"):
        assert tried(lambda: os.setxattr(pair.seen / "f", name, b"1")) == "EPERM"
        assert tried(lambda: os.removexattr(pair.seen / "f", name)) in ("EPERM", "ENODATA")
    for name in ("other", "locate.x", "locate.12", "locate.-1", "locate.99999999999999999999999"):
        with pytest.raises(OSError) as failed:
            os.getxattr(pair.seen / "f", f"user.fusemap.{name}")
        assert failed.value.errno == errno.ENODATA
    assert os.listxattr(pair.host / "f") == []


def test_the_hosts_own_attributes_of_that_name_are_hidden(pair: Pair) -> None:
    (pair.host / "f").write_text("")
    os.setxattr(pair.host / "f", "user.fusemap.table", b"ours")
    os.setxattr(pair.host / "f", "user.other", b"theirs")
    assert os.listxattr(pair.seen / "f") == ["user.other"]
    with pytest.raises(OSError):
        os.getxattr(pair.seen / "f", "user.fusemap.table")


def test_the_root_says_which_file_a_number_is(house: House, pair: Pair) -> None:
    (pair.host / "f").write_text("")
    number = os.stat(pair.seen / "f").st_ino
    told = json.loads(os.getxattr(house.mounted.path, f"user.fusemap.locate.{number}"))
    assert told["inode"] == os.stat(pair.host / "f").st_ino
    assert told["number"] == number
    for never in (0, 1 << 60):
        with pytest.raises(OSError) as failed:
            os.getxattr(house.mounted.path, f"user.fusemap.locate.{never}")
        assert failed.value.errno == errno.ENODATA
    # An ordinary user may ask as well
    assert json.loads(call_as(ALICE, lambda: os.getxattr(house.mounted.path, f"user.fusemap.locate.{number}"))) == told
