"""The product's own 9P client, with the product's server and with servers that are none."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusemap.errors import Refused
from fusemap.p9 import client
from fusemap.p9.client import Client
from fusemap.p9.messages import NOTAG, Rattach, Rclunk, Rlerror, Rreaddir, Rversion, Rwalk
from fusemap.p9.wire import Dialect, decode, encode
from fusemap.qid import QID, QTDIR, QTSYMLINK

from ..support import needs
from ..support.stage import Stage
from .served import Served

NAMES = 3000
DEEP = 40


@pytest.fixture(scope="module")
def export() -> Iterator[Path]:
    stage = Stage()
    try:
        top = stage.directory("export")
        (top / "many").mkdir()
        for number in range(NAMES):
            (top / "many" / f"{number:04d}").touch()
        (top / "text").write_bytes(b"x" * 700_000)
        os.symlink("text", top / "link")
        os.makedirs(top.joinpath(*["d"] * DEEP))
        yield top
    finally:
        stage.close()


@pytest.fixture(scope="module", params=["unix", "tcp"])
def asking(export: Path, request: pytest.FixtureRequest) -> Iterator[Client]:
    listen = f"unix:{export.parent}/socket" if request.param == "unix" else "tcp:127.0.0.1:0"
    with Served(export, export.parent, "--state", "none", listen=listen) as served, Client(served.address) as asking:
        yield asking


def test_listing_and_walking_agree(asking: Client) -> None:
    many, qid = asking.walk(asking.root, [b"many"])
    assert qid is not None
    assert qid.type == QTDIR
    listed = {entry.name: entry.qid for entry in asking.entries(many)}
    names = sorted(listed)
    assert names == [b"%04d" % number for number in range(NAMES)]
    assert asking.qids(many, names) == [listed[name] for name in names]
    assert len({qid.path for qid in listed.values()}) == NAMES
    asking.clunk([many])


def test_the_root_and_a_link(asking: Client) -> None:
    fid, none = asking.walk(asking.root, ())
    assert none is None
    listed = {entry.name: entry.qid for entry in asking.entries(fid)}
    assert sorted(listed) == [b"d", b"link", b"many", b"text"]
    assert listed[b"link"].type == QTSYMLINK
    assert asking.root_qid.type == QTDIR
    asking.clunk([fid])


def test_more_names_than_a_walk_has(asking: Client) -> None:
    deepest, qid = asking.walk(asking.root, [b"d"] * DEEP)
    assert qid is not None
    assert list(asking.entries(deepest)) == []
    asking.clunk([deepest])
    for names in ([b"d"] * (DEEP + 1), [b"missing"], [b"d", b"missing", *[b"d"] * 20]):
        with pytest.raises(FileNotFoundError):
            asking.walk(asking.root, names)


def test_a_missing_name_among_others(asking: Client) -> None:
    one, missing, two = asking.qids(asking.root, [b"text", b"missing", b"link"])
    assert isinstance(missing, FileNotFoundError)
    assert isinstance(one, QID)
    assert isinstance(two, QID)


def test_a_file_is_read_whole(asking: Client, export: Path) -> None:
    assert asking.read([b"text"]) == (export / "text").read_bytes()
    with pytest.raises(IsADirectoryError):
        asking.read([b"d"])


def test_fids_are_used_again(asking: Client) -> None:
    before, _ = asking.walk(asking.root, ())
    asking.clunk([before])
    for _ in range(20):
        asking.qids(asking.root, [b"text"] * 100)
    after, _ = asking.walk(asking.root, ())
    asking.clunk([after])
    assert max(before, after) < 300


def test_a_directory_to_attach(export: Path) -> None:
    with Served(export, export.parent, "--state", "none", listen=f"unix:{export.parent}/other") as served:
        with Client(served.address, "many") as asking:
            assert len(list(asking.entries(asking.root))) == NAMES
        with pytest.raises(Refused, match=r"does not attach missing .*No such file"):
            Client(served.address, "missing")


def test_by_vsock(export: Path) -> None:
    needs.vsock()
    with Served(export, export.parent, "--state", "none", listen="vsock:any:0") as served:
        port = served.address.rpartition(":")[2]
        with Client(f"vsock:1:{port}") as asking:
            assert asking.qids(asking.root, [b"text"])


@pytest.mark.parametrize(
    "address", ["", "x", "tcp:", "tcp:host", "tcp:1.2.3.4:99999999", "unix:", "vsock:any:5", "fd:0,1", "tcp:::1:5"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(Refused, match="no address of a 9P server: write tcp:HOST:PORT"):
        Client(address)


@pytest.mark.parametrize(
    "address", ["tcp:127.0.0.1:1", "tcp:[::1]:1", "tcp:127.0.0.1:70000", "unix:/nowhere", "tcp:no.invalid:1"]
)
def test_nobody_there(address: str) -> None:
    with pytest.raises(Refused, match=r"cannot connect to .*is fusemap serve running there"):
        Client(address)


Answer = Callable[[int, bytes], bytes]
HELLO = encode(Rversion(8192, b"9P2000.L"), NOTAG, Dialect.LINUX)
ATTACHED = encode(Rattach(QID(QTDIR, 1, 2)), 0, Dialect.LINUX)


@pytest.fixture
def false_server(stage: Stage) -> Iterator[Callable[..., str]]:
    """A server that sends these bytes, one after the other, for whatever it is asked, and then ends."""
    threads = []

    def start(*answers: bytes) -> str:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(stage.path / "false"))
        listening.listen()

        def serve() -> None:
            with listening, listening.accept()[0] as connection:
                for answer in answers:
                    connection.recv(65536)
                    connection.sendall(answer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return f"unix:{stage.path}/false"

    yield start
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([], "has ended the connection"),
        ([b"HTTP/1.0 400 Bad Request\r\n\r\n"], "does not speak 9P"),
        ([struct.pack("<IBH", 3, 101, NOTAG)], "a message of 3 bytes"),
        ([struct.pack("<IBH", 1 << 30, 101, NOTAG)], "a message of 1073741824 bytes"),
        ([struct.pack("<IBH", 7, 250, NOTAG)], "no message type 250"),
        ([encode(Rversion(8192, b"unknown"), NOTAG, Dialect.LINUX)], "speaks unknown"),
        ([encode(Rversion(100, b"9P2000.L"), NOTAG, Dialect.LINUX)], "with messages of 100 bytes"),
        ([encode(Rclunk(), NOTAG, Dialect.LINUX)], "no answer to Tversion"),
        ([HELLO, encode(Rlerror(errno.EPERM), 0, Dialect.LINUX)], "does not attach its root.*not permitted"),
        ([HELLO, encode(Rclunk(), 0, Dialect.LINUX)], "Rclunk answers nothing"),
        ([HELLO, encode(Rattach(QID(0, 1, 2)), 9, Dialect.LINUX)], "Rattach answers nothing"),
        ([HELLO, HELLO], "Rversion answers nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_server_that_is_none(false_server: Callable[..., str], answers: list[bytes], words: str) -> None:
    with pytest.raises(Refused, match=words):
        Client(false_server(*answers))


@pytest.mark.parametrize(
    "answer",
    [
        Rwalk(()),
        Rwalk((QID(0, 1, 2), QID(0, 1, 3))),
        Rreaddir(b""),
    ],
    ids=repr,
)
def test_an_answer_that_is_none(false_server: Callable[..., str], answer: object) -> None:
    with Client(false_server(HELLO, ATTACHED, encode(answer, 0, Dialect.LINUX))) as asking:
        with pytest.raises(Refused, match="does not speak 9P as it should"):
            asking.qids(asking.root, [b"name"])


def test_answers_in_another_order(false_server: Callable[..., str]) -> None:
    """Two questions at once; the second is answered first."""
    answers = b"".join(encode(Rwalk((QID(0, 1, tag),)), tag, Dialect.LINUX) for tag in (1, 0))
    clunked = b"".join(encode(Rclunk(), tag, Dialect.LINUX) for tag in (1, 0))
    with Client(false_server(HELLO, ATTACHED, answers, clunked)) as asking:
        found = asking.qids(asking.root, [b"a", b"b"])
        assert [qid.path for qid in found if isinstance(qid, QID)] == [0, 1]


@pytest.mark.parametrize("data", [b"x", struct.pack("<BIQQBH", 0, 1, 2, 1, 0, 500)], ids=["entry", "name"])
def test_a_listing_that_is_cut_off(false_server: Callable[..., str], data: bytes) -> None:
    walked, opened = encode(Rwalk(()), 0, Dialect.LINUX), struct.pack("<IBHBIQI", 24, 13, 0, QTDIR, 1, 2, 0)
    assert decode(opened, Dialect.LINUX)[0] == 0
    last = encode(Rreaddir(data), 0, Dialect.LINUX)
    with Client(false_server(HELLO, ATTACHED, walked, opened, last, encode(Rclunk(), 0, Dialect.LINUX))) as asking:
        with pytest.raises(Refused, match="cut off"):
            list(asking.entries(asking.root))


def test_a_server_that_is_silent(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(stage.path / "silent"))
        listening.listen()
        with pytest.raises(Refused, match="has not answered for"):
            Client(f"unix:{stage.path}/silent")
