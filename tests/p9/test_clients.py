"""Clients that others wrote: diodcat and diodls of Debian's package diod, and p9fs, a client in Python.

They share nothing with the product, neither code nor a reading of the protocol. diodload and dioddate cannot be used:
they ask for files that only diod's own control tree has.

p9fs is given an aname because without one it removes directories of .L by Tunlinkat without AT_REMOVEDIR.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ..support import needs
from ..support.process import run
from .served import Served

SECONDS = 60.0
BIG = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(1 << 17))  # 4 MiB


@pytest.fixture
def tree(p9_tree: Path, served: Served) -> Path:
    """The exported tree with a few files in it."""
    for part in ("", "tmpfs", "subvol-a"):
        (p9_tree / part / "hello").write_bytes(f"hello from {part}\n".encode())
    (p9_tree / "big").write_bytes(BIG)
    (p9_tree / "empty").touch()
    return p9_tree


def diod(served: Served, tool: str, *arguments: str, aname: str = "/") -> bytes:
    """What a tool of diod prints; it must end well."""
    needs.tools(tool)
    command = [tool, "-s", served.address.removeprefix("tcp:"), "-a", aname, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, b""), (command, done.stderr)
    return done.stdout


@pytest.mark.parametrize("part", ["", "tmpfs", "subvol-a"])
def test_diodcat(tree: Path, served: Served, part: str) -> None:
    assert diod(served, "diodcat", f"{part}/hello") == f"hello from {part}\n".encode()
    assert diod(served, "diodcat", "hello", aname=f"/{part}") == f"hello from {part}\n".encode()
    assert diod(served, "diodcat", "hello", aname=str(tree / part)) == f"hello from {part}\n".encode()


@pytest.mark.parametrize("msize", [4096, 65536, 1 << 20])
def test_diodcat_of_a_large_file(tree: Path, served: Served, msize: int) -> None:
    assert diod(served, "diodcat", "-m", str(msize), "big") == BIG
    assert diod(served, "diodcat", "empty") == b""


def test_diodcat_of_a_deep_path(tree: Path, served: Served) -> None:
    path = tree.joinpath(*[f"level{n}" for n in range(40)])
    path.mkdir(parents=True, exist_ok=True)
    (path / "end").write_bytes(b"of the way\n")
    assert diod(served, "diodcat", str((path / "end").relative_to(tree))) == b"of the way\n"


def test_diodcat_of_what_is_not_there(tree: Path, served: Served) -> None:
    needs.tools("diodcat")
    command = ["diodcat", "-s", served.address.removeprefix("tcp:"), "-a", "/", "missing"]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode
    assert b"No such file or directory" in done.stderr


def test_diodcat_as_another_user(tree: Path, served: Served) -> None:
    (tree / "secret").write_bytes(b"secret\n")
    (tree / "secret").chmod(0o600)
    needs.tools("diodcat")
    command = ["diodcat", "-s", served.address.removeprefix("tcp:"), "-a", "/", "-u", "61001", "secret"]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    assert (done.stdout, b"Permission denied" in done.stderr) == (b"", True)
    assert diod(served, "diodcat", "-u", "0", "secret") == b"secret\n"


def test_diodls(tree: Path, served: Served) -> None:
    (tree / "many").mkdir(exist_ok=True)
    for n in range(500):
        (tree / "many" / f"{n:03}").touch()
    assert sorted(diod(served, "diodls").decode().split()) == sorted(os.listdir(tree))
    for msize in ("4096", "65536"):
        listed = diod(served, "diodls", "-m", msize, aname="/many").decode().split()
        assert sorted(listed) == sorted(os.listdir(tree / "many"))


def test_diodls_with_attributes(tree: Path, served: Served) -> None:
    path = tree / "attributes"
    path.mkdir(exist_ok=True)
    (path / "f").write_bytes(bytes(1234))
    (path / "f").chmod(0o751)
    os.symlink("f", path / "l") if not (path / "l").is_symlink() else None
    lines = diod(served, "diodls", "-l", aname="/attributes").decode().splitlines()
    told = {line.split()[-1]: line.split() for line in lines}
    assert set(told) >= {"f", "l"}
    assert told["f"][0].rstrip(".") == "-rwxr-x--x"
    assert told["f"][2:5] == ["root", "root", "1234"]


def test_many_diodcats_at_once(tree: Path, served: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        copies = list(pool.map(lambda _: diod(served, "diodcat", "big", "tmpfs/hello"), range(16)))
    assert set(copies) == {BIG + b"hello from tmpfs\n"}


# p9fs leaves sockets open, which our own test run does not allow; so it runs in a program of its own.
P9FS = """
import hashlib, json, sys
from p9fs import P9FileNotFound, P9FileSystem
from py9p.py9p import RpcError

host, port, version, size = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
fs = P9FileSystem(host, port, "root", version=version, aname="/")
told = {}

def there(path):
    try:
        return bool(fs.info(path))
    except (P9FileNotFound, RpcError):  # of 9P2000 it knows only the words of Plan 9
        return False

told["root"] = sorted(name.strip("/") for name in fs.ls("", detail=False))
told["hello"] = fs.cat_file("hello").decode()
told["big"] = hashlib.sha256(fs.cat_file("big")).hexdigest()
fs.makedirs("written/a/b")
with fs.open("written/a/b/file", "wb") as file:
    file.write(bytes(range(256)) * (size // 256))
told["read"] = hashlib.sha256(fs.cat_file("written/a/b/file")).hexdigest()
told["info"] = fs.info("written/a/b/file")["size"]
told["type"] = fs.info("written/a")["type"]
fs.mkdir("written/gone", create_parents=False)
fs.rmdir("written/gone")
with fs.open("written/removed", "wb") as file:
    file.write(b"removed")
fs.rm("written/removed")
told["there"] = [there("written/gone"), there("written/removed"), there("written/a")]
print(json.dumps(told))
"""


@pytest.mark.parametrize("dialect", ["9P2000", "9P2000.u", "9P2000.L"])
def test_p9fs(tree: Path, served: Served, dialect: str) -> None:
    if importlib.util.find_spec("p9fs") is None:
        needs.missing("the Python package p9fs is not installed")
    run("rm", "-rf", tree / "written")
    host, port = served.address.removeprefix("tcp:").rsplit(":", 1)
    done = run(sys.executable, "-W", "ignore", "-c", P9FS, host, port, dialect, str(1 << 20))
    told: dict[str, Any] = json.loads(done.stdout)
    assert set(told["root"]) == set(os.listdir(tree)) - {"written"}
    assert told["hello"] == "hello from \n"
    assert told["big"] == hashlib.sha256(BIG).hexdigest()
    content = (tree / "written" / "a" / "b" / "file").read_bytes()
    assert content == bytes(range(256)) * 4096
    assert told["read"] == hashlib.sha256(content).hexdigest()
    assert (told["info"], told["type"]) == (1 << 20, "directory")
    assert told["there"] == [False, False, True]
