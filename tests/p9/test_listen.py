"""Addresses: what is opened, who can reach it, what is left behind, and what is refused with which sentence."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusemap.errors import Refused
from fusemap.p9 import listen
from fusemap.p9.listen import Inherited, Listener, Source, close_all, open_all

from ..support import needs
from ..support.process import ALICE, call_as


@pytest.fixture
def opened() -> Iterator[Callable[..., list[Source]]]:
    """open_all() without an environment; what it opens is closed."""
    found: list[Source] = []

    def opening(*words: str) -> list[Source]:
        found.extend(more := open_all(words, {}))
        return more

    yield opening
    close_all(found)


def reaches(address: str) -> bool:
    """Whether somebody listens."""
    kind, _, rest = address.partition(":")
    with contextlib.ExitStack() as stack:
        try:
            if kind == "unix":
                stack.enter_context(socket.socket(socket.AF_UNIX)).connect(rest)
            else:
                host, port = rest.rsplit(":", 1)
                stack.enter_context(socket.create_connection((host.strip("[]"), int(port)), timeout=10))
        except OSError:
            return False
    return True


# tcp ------------------------------------------------------------------------------------------------------------------


def test_a_free_port_is_found_and_named(opened: Callable[..., list[Source]]) -> None:
    (first,) = opened("tcp:127.0.0.1:0")
    (second,) = opened("tcp:127.0.0.1:0")
    assert re.fullmatch(r"tcp:127\.0\.0\.1:[1-9][0-9]*", first.address)
    assert first.address != second.address
    assert reaches(first.address)
    first.close()
    assert not reaches(first.address)
    assert opened(first.address)[0].address == first.address  # at once, though connections of the last one linger


def test_ipv6_and_names(opened: Callable[..., list[Source]]) -> None:
    needs.ipv6()
    (six,) = opened("tcp:[::1]:0")
    assert re.fullmatch(r"tcp:\[::1\]:[1-9][0-9]*", six.address)
    assert reaches(six.address)
    names = [source.address for source in opened("tcp:localhost:0")]
    assert names[0].startswith("tcp:127.0.0.1:")
    assert all(map(reaches, names))


def test_only_what_was_written_is_bound(opened: Callable[..., list[Source]]) -> None:
    (listener,) = opened("tcp:127.0.0.1:0")
    port = listener.address.rsplit(":", 1)[1]
    assert not reaches(f"tcp:127.0.0.2:{port}")
    (every,) = opened("tcp:0.0.0.0:0")
    port = every.address.rsplit(":", 1)[1]
    assert reaches(f"tcp:127.0.0.2:{port}")
    assert not reaches(f"tcp:[::1]:{port}"), "0.0.0.0 is IPv4's"
    assert any(source.address.startswith("tcp:0.0.0.0:") for source in opened("tcp:*:0"))


def test_ipv6s_wildcard_is_not_ipv4s(opened: Callable[..., list[Source]]) -> None:
    needs.ipv6()
    (every,) = opened("tcp:[::]:0")
    port = every.address.rsplit(":", 1)[1]
    assert every.address == f"tcp:[::]:{port}"
    assert reaches(f"tcp:[::1]:{port}")
    assert not reaches(f"tcp:127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("word", "warned"), [("tcp:127.0.0.1:0", False), ("tcp:0.0.0.0:0", True), ("tcp:*:0", True)]
)
def test_open_to_others_is_warned_of(
    opened: Callable[..., list[Source]], caplog: pytest.LogCaptureFixture, word: str, warned: bool
) -> None:
    opened(word)
    assert any("can act as any user" in record.getMessage() for record in caplog.records) == warned
    assert all(record.levelno == logging.WARNING for record in caplog.records)


# unix -----------------------------------------------------------------------------------------------------------------


def test_a_unix_socket_is_its_owners_only(opened: Callable[..., list[Source]], tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        (listener,) = opened(f"unix:{tmp_path}/socket")
    finally:
        os.umask(old)
    assert listener.address == f"unix:{tmp_path}/socket"
    assert stat.S_IMODE(os.stat(tmp_path / "socket").st_mode) == 0o600
    assert reaches(listener.address)
    listener.close()
    assert os.listdir(tmp_path) == []
    listener.close()


def test_another_user_does_not_get_in(opened: Callable[..., list[Source]]) -> None:
    needs.root()
    path = Path(f"/tmp/fusemap-test-{os.getpid()}.socket")
    (listener,) = opened(f"unix:{path}")
    assert not call_as(ALICE, lambda: reaches(f"unix:{path}"))
    path.chmod(0o666)
    assert call_as(ALICE, lambda: reaches(f"unix:{path}"))
    listener.close()
    assert not path.exists()


def test_a_relative_path_and_a_changed_directory(
    opened: Callable[..., list[Source]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (listener,) = opened("unix:socket")
    monkeypatch.chdir("/")
    assert listener.address == f"unix:{tmp_path}/socket"
    listener.close()
    assert os.listdir(tmp_path) == []


def test_a_dead_servers_socket_is_replaced(opened: Callable[..., list[Source]], tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "socket"))
    dead.listen()
    dead.close()
    assert not reaches(f"unix:{tmp_path}/socket")
    opened(f"unix:{tmp_path}/socket")
    assert reaches(f"unix:{tmp_path}/socket")


def test_a_live_servers_socket_is_not(opened: Callable[..., list[Source]], tmp_path: Path) -> None:
    word = f"unix:{tmp_path}/socket"
    opened(word)
    with pytest.raises(Refused, match="a server listens there already"):
        opened(word)
    with socket.socket(socket.AF_UNIX) as full, contextlib.ExitStack() as stack:
        full.bind(str(tmp_path / "full"))
        full.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:  # until its queue has no room
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(tmp_path / "full"))
        with pytest.raises(Refused, match="a server listens there already"):
            opened(f"unix:{tmp_path}/full")
    assert reaches(word)


def test_a_socket_of_another_server_is_left(opened: Callable[..., list[Source]], tmp_path: Path) -> None:
    (first,) = opened(f"unix:{tmp_path}/socket")
    os.unlink(tmp_path / "socket")
    (second,) = opened(f"unix:{tmp_path}/socket")
    first.close()
    assert reaches(second.address)


def test_of_two_that_start_together_one_wins(opened: Callable[..., list[Source]], tmp_path: Path) -> None:
    for turn in range(50):
        word = f"unix:{tmp_path}/{turn}"
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as stale:
            stale.bind(word.removeprefix("unix:"))
        together = threading.Barrier(2)
        refusals: list[Refused] = []

        def start(word: str = word, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                opened(word)
            except Refused as error:
                refusals.append(error)

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [str(error) for error in refusals] == [
            f"--listen {word}: a server listens there already; stop it or choose another path"
        ]
        assert reaches(word)


# What is open already -------------------------------------------------------------------------------------------------


def test_descriptors_are_named_and_not_given_to_children(opened: Callable[..., list[Source]]) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    (found,) = opened(f"fd:{reader},{writer}")
    assert isinstance(found, Inherited)
    assert (found.reader, found.writer, found.address) == (reader, writer, f"fd:{reader},{writer}")
    assert not os.get_inheritable(reader)
    os.close(reader)
    os.close(writer)


def _activated(number: int, names: str | None, make: Callable[[], list[socket.socket]], pid: str = "own") -> list[str]:
    """The addresses that a child finds which was started as systemd would, or the sentence of its refusal."""

    def child() -> list[str]:
        sockets = make()
        fds = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 100) for one in sockets]
        for one in sockets:
            one.close()
        os.closerange(3, 3 + len(fds))
        for at, fd in enumerate(fds):
            os.dup2(fd, 3 + at)
            os.close(fd)
        environment = {"LISTEN_FDS": str(number), "LISTEN_PID": str(os.getpid()) if pid == "own" else pid}
        if names is not None:
            environment["LISTEN_FDNAMES"] = names
        try:
            found = open_all([], environment)
        except Refused as error:
            return [str(error)]
        assert environment == {}
        assert not any(os.get_inheritable(3 + at) for at in range(len(fds)))
        addresses = [source.address for source in found]
        close_all(found)
        return addresses

    return call_as(None, child)


def _tcp() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_sockets_of_systemd(tmp_path: Path) -> None:
    def make() -> list[socket.socket]:
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(tmp_path / "socket"))
        unix.listen()
        return [_tcp(), unix]

    tcp, unix = _activated(2, "9p.socket:other", make)
    assert tcp.startswith("tcp:127.0.0.1:")
    assert unix == f"unix:{tmp_path}/socket"
    assert (tmp_path / "socket").exists(), "it is systemd's"
    assert _activated(1, None, lambda: [_tcp()])[0].startswith("tcp:127.0.0.1:")


def test_a_connection_of_systemd() -> None:
    """A unit with Accept=yes."""
    assert _activated(1, "connection", lambda: [socket.socketpair()[0]]) == ["fd:3,3"]


def test_sockets_that_are_not_for_us() -> None:
    (said,) = _activated(1, None, lambda: [_tcp()], pid="1")
    assert "say where clients come from" in said
    (said,) = _activated(0, None, list)
    assert "say where clients come from" in said


def test_sockets_of_systemd_that_cannot_be_served() -> None:
    (said,) = _activated(1, None, lambda: [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)])
    assert "no stream socket" in said


def test_systemd_is_asked_for_and_passed_nothing() -> None:
    with pytest.raises(Refused, match="no sockets were passed"):
        open_all(["systemd"], {})


# vsock ----------------------------------------------------------------------------------------------------------------


def test_vsock(opened: Callable[..., list[Source]], caplog: pytest.LogCaptureFixture) -> None:
    try:
        socket.socket(socket.AF_VSOCK).close()
    except OSError as error:
        with pytest.raises(Refused, match="this kernel has no vsock"):
            opened("vsock:any:0")
        needs.missing(f"this kernel has no vsock: {error.strerror}")
    for word in ("vsock:any:0", "vsock:-1:0", "vsock:4294967295:0"):
        (listener,) = opened(word)
        assert isinstance(listener, Listener)
        assert re.fullmatch(r"vsock:any:[1-9][0-9]*", listener.address)
    assert any("can act as any user" in record.getMessage() for record in caplog.records)
    with pytest.raises(Refused, match="no CID of this machine"):
        opened("vsock:77777:5640")


def test_a_kernel_without_vsock(opened: Callable[..., list[Source]], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(family: int) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(listen.socket, "socket", none)
    with pytest.raises(Refused, match="this kernel has no vsock; load it"):
        opened("vsock:any:5640")


# Refusals -------------------------------------------------------------------------------------------------------------

REFUSED = [
    ("", "write tcp:HOST:PORT, unix:PATH"),
    ("localhost:5640", "write tcp:HOST:PORT, unix:PATH"),
    ("http://localhost", "write tcp:HOST:PORT, unix:PATH"),
    ("tcp:", "for example tcp:127.0.0.1:5640"),
    ("tcp:5640", "for example tcp:127.0.0.1:5640"),
    ("tcp::5640", "for example tcp:127.0.0.1:5640"),
    ("tcp:127.0.0.1", "for example tcp:127.0.0.1:5640"),
    ("tcp:127.0.0.1:", "for example tcp:127.0.0.1:5640"),
    ("tcp:127.0.0.1:9p", "for example tcp:127.0.0.1:5640"),
    ("tcp:::1:5640", "for example tcp:127.0.0.1:5640"),
    ("tcp:[]:5640", "for example tcp:127.0.0.1:5640"),
    ("tcp:127.0.0.1:65536", "too large"),
    ("tcp:127.0.0.1:99999999999999999999", "too large"),
    ("tcp:no-such-host.invalid:5640", "check the name"),
    ("tcp:a..b:5640", "check the name"),
    ("tcp:192.0.2.1:5640", "this machine does not have that address"),
    ("unix:", "for example unix:/run/fusemap.sock"),
    ("unix:/proc/nonexistent/socket", "create it first"),
    ("unix:/etc/passwd/socket", "check the path"),
    ("unix:/" + "x" * 120, "choose a shorter one"),
    ("unix:/etc/passwd", "is no socket"),
    ("vsock:", "for example vsock:any:5640"),
    ("vsock:5640", "for example vsock:any:5640"),
    ("vsock:any:", "for example vsock:any:5640"),
    ("vsock:host:5640", "for example vsock:any:5640"),
    ("vsock:4294967296:5640", "too large"),
    ("vsock:any:4294967295", "too large"),
    ("fd:", "for example fd:0,1"),
    ("fd:3", "for example fd:0,1"),
    ("fd:-1,1", "for example fd:0,1"),
    ("fd:0,1,2", "for example fd:0,1"),
    ("fd:987654,987655", "is not open; pass it on"),
    ("systemd", "no sockets were passed"),
    ("systemd:3", "write tcp:HOST:PORT, unix:PATH"),
]


@pytest.mark.parametrize(("word", "said"), REFUSED, ids=[word[:40] for word, _ in REFUSED])
def test_refused(word: str, said: str, opened: Callable[..., list[Source]]) -> None:
    with pytest.raises(Refused) as caught:
        opened(word)
    sentence = str(caught.value)
    assert said in sentence
    assert sentence.startswith(f"--listen {word}")
    assert "\n" not in sentence


def test_nothing_is_said() -> None:
    with pytest.raises(Refused, match="say where clients come from: --listen"):
        open_all([], {})


def test_descriptors_that_cannot_be_served(opened: Callable[..., list[Source]]) -> None:
    reader, writer = os.pipe()
    with contextlib.ExitStack() as stack:
        for fd in (reader, writer):
            stack.callback(os.close, fd)
        listening = stack.enter_context(_tcp()).fileno()
        packets = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).fileno()
        for word, said in (
            (f"fd:{writer},{writer}", "not open for reading"),
            (f"fd:{writer},{reader}", "not open for reading"),
            (f"fd:{reader},{reader}", "not open for writing"),
            (f"fd:{listening},{listening}", "waits for connections"),
            (f"fd:{packets},{packets}", "no stream socket"),
        ):
            with pytest.raises(Refused, match=said):
                opened(word)


def test_a_port_in_use(opened: Callable[..., list[Source]]) -> None:
    (listener,) = opened("tcp:127.0.0.1:0")
    with pytest.raises(Refused, match="the address is in use; stop what uses it"):
        opened(listener.address)


def test_a_directory_that_somebody_keeps_locked(
    opened: Callable[..., list[Source]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "_LOCK_SECONDS", 0.05)
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(Refused, match="has locked"):
        opened(f"unix:{tmp_path}/socket")
    os.close(fd)
    opened(f"unix:{tmp_path}/socket")


def test_what_was_opened_before_a_refusal_is_closed_again(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Refused):
        open_all([f"unix:{tmp_path}/socket", "tcp:127.0.0.1:0", "tcp:nonsense"], {})
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before
