"""`fusemap check --smb` where there is no Samba to talk to; tests/samba has the rest."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fusemap.errors import Refused
from fusemap.smb.address import Address, parse

from ..support.command import fusemap, refused
from ..support.process import SECONDS, attempt
from ..support.stage import FUSEMAP
from .here import here


@pytest.mark.parametrize(
    ("word", "address"),
    [
        ("//nas/tree", Address("nas", 445, "tree")),
        ("//nas/tree/", Address("nas", 445, "tree")),
        ("//127.0.0.1:4450/my tree", Address("127.0.0.1", 4450, "my tree")),
        (r"\\nas\tree", Address("nas", 445, "tree")),
        ("//[::1]:4450/tree", Address("::1", 4450, "tree")),
    ],
)
def test_addresses(word: str, address: Address) -> None:
    assert parse(word) == address
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "word", ["", "nas", "nas/tree", "//nas", "//nas/", "//nas:/tree", "//nas:0/x", "//nas:65536/x", "///x", "//a/b/c"]
)
def test_what_is_no_address(word: str) -> None:
    with pytest.raises(Refused, match="write //HOST/SHARE"):
        parse(word)
    if word:
        refused(here("check", "--smb", word), "write //HOST/SHARE")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--9p", "unix:/x"],
        ["--user", "alice"],
        ["--password-file", "x"],
        ["--as-mac"],
        ["--aname", "x"],
    ],
    ids=" ".join,
)
def test_options_that_are_about_a_share(arguments: list[str]) -> None:
    refused(here("check", "/tmp", *arguments), arguments[0], "--smb")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name TREE"]),
        (["--smb", "//nas/tree", "--aname", "x"], ["--9p"]),
        (["--smb", "//nas/tree", "--password-file", "x"], ["--user"]),
        (["--smb", "//nas/tree", "--user", "alice"], ["no password for alice"]),
        (["--smb", "//127.0.0.1:1/tree"], ["cannot connect to //127.0.0.1:1/tree", "Connection refused"]),
        (["--smb", "//nowhere.invalid/tree"], ["cannot connect to //nowhere.invalid/tree"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_is_missing(arguments: list[str], words: list[str]) -> None:
    refused(here("check", *arguments), *words)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x05hello"], ids=repr)
def test_a_server_that_is_no_samba(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        done = here("check", "--smb", f"//127.0.0.1:{listening.getsockname()[1]}/tree")
        server.join()
    refused(done, "cannot connect to //127.0.0.1", "is Samba running there")


def test_ctrl_c_ends_it_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        word = f"//127.0.0.1:{listening.getsockname()[1]}/tree"
        looking = subprocess.Popen([*FUSEMAP, "check", "--smb", word], stderr=subprocess.PIPE, text=True)
        try:
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(65536)  # it asks, and waits for an answer
                looking.send_signal(signal.SIGINT)
                _, said = looking.communicate(timeout=SECONDS)
        finally:
            looking.kill()
            looking.wait()
    assert (looking.returncode, said) == (130, "")


def test_without_the_library_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "smbprotocol.py").write_text("raise ImportError")
    program = (
        "import importlib.util as u, sys; real = u.find_spec; "
        "u.find_spec = lambda name, *rest: None if name == 'smbprotocol' else real(name, *rest); "
        "from fusemap.cli.main import main; sys.exit(main(['check', '--smb', '//nas/tree']))"
    )
    done = attempt(sys.executable, "-c", program)
    refused(done, "pip install 'fusemap[smb]'")


def test_a_tree_is_checked_without_the_library(tmp_path: Path) -> None:
    """Nothing of smbprotocol, numpy or rich is loaded for what does not need it."""
    program = (
        "import sys; from fusemap.cli.main import main; status = main(['check', sys.argv[1]]); "
        "sys.exit(status or any(name in sys.modules for name in ('smbprotocol', 'numpy', 'rich')))"
    )
    assert attempt(sys.executable, "-c", program, tmp_path).returncode == 0


def test_help_teaches() -> None:
    text = fusemap("check", "--help", env={"COLUMNS": "100", **os.environ}).stdout
    for words in ("--smb //HOST[:PORT]/SHARE", "--9p ADDRESS", "FUSEMAP_SMB_PASSWORD", "--against ids.json"):
        assert words in text
