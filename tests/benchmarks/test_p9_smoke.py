"""The comparison of 9P servers runs through, with work so small that its times mean nothing, and leaves nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.p9 import load, report
from tests.benchmarks.p9.rounds import Value
from tests.benchmarks.p9.works import WORKS
from tests.support import needs, process

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = ("--files", "120", "--requests", "60", "--mib", "3", "--fids", "500", "--rounds", "1")


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """An environment in which temporary files go below `tmp_path`."""
    needs.fuse()  # as every benchmark's sandbox does
    needs.tools("gcc")
    return {**os.environ, "TMPDIR": str(tmp_path)}


def compare(place: dict[str, str], file: Path, *words: str) -> tuple[Any, str]:
    command = (sys.executable, "-m", "tests.benchmarks.p9", *SMALL, *words, "--json", str(file))
    done = process.run(*command, env=place, cwd=CHECKOUT, timeout=110)
    return json.loads(file.read_text()), done.stdout


def test_the_comparison_measures_everything(place: dict[str, str], tmp_path: Path) -> None:
    needs.tools("diod")
    found, printed = compare(place, tmp_path / "result.json")
    assert set(found["medians"]) == {work.key for work in WORKS}
    for by_name in found["medians"].values():
        assert set(by_name) == {"diod", "fusemap"}
        assert min(Value(*value).rate for value in by_name.values()) > 0
    assert found["fids"]["fusemap"]["fids"] == 500
    assert 0 < found["fids"]["fusemap"]["descriptors"] < 1024
    assert f"of {len(report.RATIOS) + 3} targets reached" in printed
    assert os.listdir(tmp_path) == ["result.json"]


def test_one_server_can_be_measured_alone(place: dict[str, str], tmp_path: Path) -> None:
    found, _ = compare(place, tmp_path / "result.json", "--server", "fusemap", "--only", "list", "write-4")
    assert {work: set(by_name) for work, by_name in found["medians"].items()} == {
        "list": {"fusemap"},
        "write-4": {"fusemap"},
    }


@pytest.fixture
def program(tmp_path: Path) -> Path:
    needs.tools("gcc")
    return load.build(tmp_path)


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """The port of a server of one connection that sends what `answer` makes of each frame; b"" ends it."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as frames:
            while size := frames.read(4):
                reply = answer(size + frames.read(int.from_bytes(size, "little") - 4))
                if not reply:
                    return
                connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def frame(number: int, tag: bytes, body: bytes) -> bytes:
    return (7 + len(body)).to_bytes(4, "little") + bytes([number]) + tag + body


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda tag: frame(7, tag, b"\x05\0\0\0"), "request 104 was answered with error 5"),
        (lambda tag: frame(111, tag, bytes(2)), "request 104 was answered with type 111"),
        (lambda tag: frame(105, b"\x09\0", bytes(13)), "request 104 with tag 0 was answered with tag 9"),
        (lambda tag: b"\x03\0\0\0", "a reply claims to have 3 bytes"),
        (lambda tag: b"", "the server has closed the connection"),
    ],
)
def test_a_wrong_reply_ends_the_measurement(program: Path, make: Callable[[bytes], bytes], sentence: str) -> None:
    def answer(request: bytes) -> bytes:
        return frame(101, request[5:7], request[7:]) if request[4] == 100 else make(request[5:7])

    with answering(answer) as port, pytest.raises(OSError, match=sentence):
        load.run(program, port, "", ["getattr", "many", "10", "10", "1", "1"])


def test_bad_words_are_told(program: Path) -> None:
    done = subprocess.run(
        [program, "1", "", "walk", "many", "9", "0", "1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "load: word 6 must be a number above 0\n")


def test_verdicts_are_told_from_the_medians() -> None:
    def values(diod: float, fusemap: float) -> dict[str, Value]:
        return {"diod": Value(diod, 1, 65536), "fusemap": Value(fusemap, 1, 1 << 20)}

    found = {
        "getattr-32": values(100, 190),
        "read-1": values(100, 81),
        "client": values(1, 90),
        "clients": values(1, 91),
    }
    assert [(verdict.found, verdict.met) for verdict in report.judge(found)] == [
        ("1.90 times its rate", False),
        ("0.81 times its rate", True),
        ("1.01 times its rate", True),
    ]
    costs = {"fusemap": {"fids": 100.0, "bytes_a_fid": 1025.0, "descriptors": 1023.0}}
    assert [verdict.met for verdict in report.judge_fids(costs)] == [False, True]
