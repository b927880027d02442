"""fusemap serve as a user types it: every way to listen, its output, its end, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fusemap.p9.messages import NOFID, NOTAG, Rattach, Rversion, Tattach, Tgetattr, Tmkdir, Tversion, Twalk
from fusemap.p9.wire import Dialect, decode, encode

from ..p9.client import Client, ServerError
from ..p9.served import Served
from ..support import needs
from ..support.command import fusemap, one_sentence, refused
from ..support.process import ALICE, call_as, die_with_parent
from ..support.stage import FUSEMAP, Stage, watchdog

Serving = Callable[..., Served]


@pytest.fixture
def serving(stage: Stage, source: Path) -> Iterator[Serving]:
    """Starts servers of `source`; ends them, which they must do with status 0."""
    found: list[Served] = []

    def start(*options: str, **how: Any) -> Served:
        found.append(Served(source, stage.directory(f"server{len(found)}"), *options, **how))
        return found[-1]

    yield start
    for server in found:
        if server.process.returncode is None:
            server.close()
        else:
            watchdog.release(server.pid)
            server.process.stdout.close()  # type: ignore[union-attr]
        assert server.process.returncode == 0, server.log()


@contextlib.contextmanager
def running(*command: str | Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program, killed at the end if it has not ended."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": die_with_parent, **how}
    with subprocess.Popen([os.fspath(word) for word in command], **how) as process:
        watchdog.guard(process.pid)
        try:
            yield process
        finally:
            process.kill()
            watchdog.release(process.pid)


def ended(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Asks it to end, which it must do well; the rest of its output, and its log."""
    process.terminate()
    out, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert b"Traceback" not in log
    return out, log


def works(address: str) -> bool:
    """Whether a client reads the file f."""
    with Client(address) as client:
        root = client.attach()
        return client.read_all(client.open(root, "f")) == b"f"


# Ways to listen -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["tcp:127.0.0.1:0", "unix:{}/socket"])
def test_a_client_reads_a_file(serving: Serving, stage: Stage, listen: str) -> None:
    server = serving(listen=listen.format(stage.path))
    assert works(server.address)
    assert works(server.address)


def test_several_addresses(serving: Serving, stage: Stage) -> None:
    server = serving("--listen", f"unix:{stage.path}/other", listen=f"unix:{stage.path}/one")
    assert works(f"unix:{stage.path}/one")
    assert works(f"unix:{stage.path}/other")
    server.close()
    assert not list(stage.path.glob("o*"))


def test_it_says_where_it_listens(source: Path, stage: Stage) -> None:
    addresses = "--listen", "tcp:127.0.0.1:0", "--listen", f"unix:{stage.path}/socket"
    with running(*FUSEMAP, "serve", source, *addresses) as process:
        assert process.stdout
        first, second = process.stdout.readline().decode(), process.stdout.readline().decode()
        assert re.fullmatch(r"listening on tcp:127\.0\.0\.1:[1-9][0-9]*\n", first)
        assert second == f"listening on unix:{stage.path}/socket\n"
        assert works(first.split()[-1])
        assert ended(process)[0] == b""


def _conversation() -> bytes:
    """A client's requests, from the version to a getattr."""
    requests = [Tattach(1, NOFID, b"root", b"", 0), Twalk(1, 2, (b"f",)), Tgetattr(2, 0x7FF)]
    frames = [encode(Tversion(8192, b"9P2000.L"), NOTAG, Dialect.LINUX)]
    frames += [encode(request, tag, Dialect.LINUX) for tag, request in enumerate(requests)]
    return b"".join(frames)


def _answers(data: bytes) -> list[Any]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "little")
        found.append(decode(data[:size], Dialect.LINUX)[1])
        data = data[size:]
    return found


def test_one_connection_on_standard_input_and_output(source: Path) -> None:
    """Nothing but 9P is said there, and it ends with the connection."""
    done = subprocess.run(
        [*FUSEMAP, "serve", str(source), "--listen", "fd:0,1"],
        input=_conversation(), capture_output=True, timeout=60, preexec_fn=die_with_parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    version, attach, walk, getattr = _answers(done.stdout)
    assert isinstance(version, Rversion)
    assert isinstance(attach, Rattach)
    assert getattr.qid == walk.wqid[0]
    assert getattr.size == 1
    assert b"listening on fd:0,1" in done.stderr
    assert b"Traceback" not in done.stderr


def test_requests_and_answers_in_files(source: Path, stage: Stage) -> None:
    requests, answers = stage.path / "requests", stage.path / "answers"
    requests.write_bytes(_conversation())
    with open(requests, "rb") as stdin, open(answers, "wb") as stdout:
        command = [*FUSEMAP, "serve", str(source), "--listen", "fd:0,1"]
        done = subprocess.run(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(_answers(answers.read_bytes())) == 4


def test_a_socket_that_was_inherited(source: Path) -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        fd = theirs.fileno()
        with running(*FUSEMAP, "serve", source, "--listen", f"fd:{fd},{fd}", pass_fds=[fd]) as process:
            theirs.close()
            mine.settimeout(30)
            mine.sendall(_conversation())
            data = b""
            while len(_whole(data)) < 4:
                data += mine.recv(65536)
            mine.close()
            out, log = process.communicate(timeout=20)
            assert process.returncode == 0, log
            assert out == f"listening on fd:{fd},{fd}\n".encode()


def _whole(data: bytes) -> list[Any]:
    """The answers that are there wholly."""
    found = 0
    while len(data) - found >= 4 and len(data) - found >= (size := int.from_bytes(data[found : found + 4], "little")):
        found += size
    return _answers(data[:found])


@pytest.mark.parametrize("words", [[], ["--listen", "systemd"]], ids=["by default", "on request"])
def test_a_socket_of_systemd(source: Path, stage: Stage, words: list[str]) -> None:
    path = stage.path / "socket"
    # As sd_listen_fds(3) has it: descriptor 3, and the environment names the very process.
    script = 'exec 3<&$1; shift; LISTEN_FDS=1 LISTEN_FDNAMES=9p LISTEN_PID=$$ exec "$@"'
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        fd = listening.fileno()
        command = "bash", "-c", script, "-", str(fd), *FUSEMAP, "serve", source, *words
        with running(*command, pass_fds=[fd]) as process:
            assert works(f"unix:{path}")  # systemd's queue keeps whoever comes before the server is up
            assert ended(process)[0] == f"listening on unix:{path}\n".encode()
    assert path.exists(), "it is systemd's"


def test_systemd_socket_activate(source: Path) -> None:
    needs.tools("systemd-socket-activate")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    activate = "systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-E", f"PYTHONPATH={os.environ['PYTHONPATH']}"
    with running(*activate, *FUSEMAP, "serve", source, "--state", "none") as process:
        assert process.stderr
        assert b"Listening on" in process.stderr.readline()
        assert works(f"tcp:127.0.0.1:{port}")
        assert ended(process)[0] == f"listening on tcp:127.0.0.1:{port}\n".encode()


# Options --------------------------------------------------------------------------------------------------------------


def test_read_only(serving: Serving) -> None:
    with Client(serving("--read-only").address) as client:
        root = client.attach()
        client.fails(Tmkdir(root, b"d", 0o755, 0), 30)  # EROFS
        assert client.read_all(client.open(root, "f")) == b"f"


@pytest.mark.parametrize(
    ("words", "said", "owner"),
    [
        ([], "security passthrough", ALICE.uid),
        (["--security", "passthrough"], "security passthrough", ALICE.uid),
        (["--security", "none"], "security none", ALICE.uid),
        (["--security", "mapped-xattr"], "security mapped-xattr", 0),
    ],
    ids=lambda value: value[-1] if value and isinstance(value, list) else "",
)
def test_security(serving: Serving, source: Path, words: list[str], said: str, owner: int) -> None:
    needs.root()
    source.chmod(0o777)
    server = serving(*words)
    assert said in server.log()
    with Client(server.address) as client:
        client.call(Tmkdir(client.attach(n_uname=ALICE.uid), b"d", 0o755, ALICE.gid))
        assert client.getattr(client.walk(client.root, "d")).uid == ALICE.uid
    assert os.stat(source / "d").st_uid == owner


@pytest.mark.parametrize(("word", "size"), [("8192", 8192), ("64k", 65536), ("2M", 2 << 20)])
def test_msize(serving: Serving, word: str, size: int) -> None:
    with Client(serving("--msize", word).address, msize=1 << 24) as client:
        assert client.msize == size


@pytest.mark.parametrize("mode", ["suffix", "prefix", "qemu", "raw"])
def test_the_number_is_that_of_the_map(serving: Serving, source: Path, mode: str) -> None:
    with Client(serving("--map", mode).address) as client:
        number = client.qid(client.walk(client.attach(), "f")).path
    inode = os.stat(source / "f").st_ino
    assert (number == inode) == (mode == "raw")
    if mode == "suffix":
        assert number == inode << 1 | 1


def test_numbers_are_those_of_a_mount_and_last(serving: Serving, source: Path, stage: Stage) -> None:
    needs.fuse()
    stage.tmpfs("src/tmp")
    (source / "tmp" / "g").write_text("g")
    found = []
    for _ in range(2):
        server = serving("--name", f"{source}/tmp=scratch")
        with Client(server.address) as client:
            root = client.attach()
            found.append([client.qid(client.walk(root, *path)).path for path in (["f"], ["tmp", "g"])])
        server.close()
    mounted = stage.fusemap(source, "--name", f"{source}/tmp=scratch")
    found.append([os.stat(mounted / name).st_ino for name in ("f", "tmp/g")])
    assert found[0] == found[1] == found[2]


def test_a_trace_tells_every_message(serving: Serving, stage: Stage) -> None:
    server = serving("--trace", str(stage.path / "trace"))
    assert works(server.address)
    server.close()
    lines = (stage.path / "trace").read_text().splitlines()
    for name in ("Tversion", "Rversion", "Tattach", "Rattach", "Twalk", "Rwalk", "Tlopen", "Rlopen", "Tread", "Rread"):
        assert any(f" {name} " in line for line in lines), name


def test_a_trace_that_cannot_be_written_any_more_costs_nobody_anything(serving: Serving) -> None:
    server = serving("--trace", "/dev/full")
    assert works(server.address)
    assert "no more tracing" in server.log()


def test_a_trace_on_standard_output(serving: Serving) -> None:
    server = serving("--trace", "-")
    assert works(server.address)
    server.process.terminate()
    out, _ = server.process.communicate(timeout=20)
    assert " Tversion " in out.decode()


def test_a_log(serving: Serving, stage: Stage) -> None:
    server = serving("--log", str(stage.path / "log"), "-v")
    assert works(server.address)
    server.close()
    assert server.log() == ""
    assert "connected" in (stage.path / "log").read_text()


def test_peers_that_may_only_be_themselves(serving: Serving, stage: Stage) -> None:
    needs.root()
    path = stage.path / "socket"
    serving("--peers", "self", listen=f"unix:{path}")
    path.chmod(0o666)

    def as_root() -> str:
        with Client(f"unix:{path}") as client:
            client.attach(uname=b"", n_uname=ALICE.uid)
            try:
                client.attach(uname=b"", n_uname=0)
            except ServerError as error:
                return os.strerror(error.errno or 0)
            return "attached"

    assert call_as(ALICE, as_root) == "Operation not permitted"
    with Client(f"unix:{path}") as client:
        client.attach(n_uname=0)
        client.attach(n_uname=ALICE.uid)


def test_an_ordinary_user_serves_what_he_can_read(stage: Stage, source: Path) -> None:
    needs.root()
    path = stage.path / "his"
    stage.path.chmod(0o777)
    his: dict[str, Any] = {"user": ALICE.uid, "group": ALICE.gid, "extra_groups": []}
    with running(*FUSEMAP, "serve", source, "--listen", f"unix:{path}", **his) as process:
        assert process.stdout
        assert process.stdout.readline() == f"listening on unix:{path}\n".encode()
        assert call_as(ALICE, lambda: works(f"unix:{path}"))
        ended(process)


# The end --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_the_middle_of_things(serving: Serving, stage: Stage, number: int) -> None:
    server = serving(listen=f"unix:{stage.path}/socket")
    with Client(server.address) as client:
        client.open(client.attach(), "f")
        server.process.send_signal(number)
        assert client.disconnected()
    assert server.process.wait(20) == 0
    assert not (stage.path / "socket").exists()


def test_kill_9_and_a_new_server(serving: Serving, stage: Stage, source: Path) -> None:
    address = f"unix:{stage.path}/socket"
    first = serving(listen=address)
    first.process.kill()
    first.process.wait(20)
    first.process.returncode = 0  # as it should be here
    assert (stage.path / "socket").exists()
    second = serving(listen=address)
    assert works(address)
    done = fusemap("serve", source, "--listen", address)
    refused_by_sentence(done, "a server listens there already")
    assert works(address), "the refused one takes nothing away"
    second.close()


def open_below(pid: int, top: Path) -> list[str]:
    """What a process has open below a directory."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return [path for path in found if Path(path).is_relative_to(top)]


def test_an_idle_server_keeps_nothing_busy(serving: Serving, stage: Stage, source: Path) -> None:
    needs.root()
    disk = stage.tmpfs("src/disk")
    (disk / "d").mkdir()
    (disk / "d" / "g").write_text("g")
    server = serving()
    with Client(server.address) as client:
        client.getattr(client.walk(client.attach(), "disk", "d", "g"))
        end = time.monotonic() + 10
        while open_below(server.pid, disk) and time.monotonic() < end:  # just after the answer it may not rest yet
            time.sleep(0.001)
        assert open_below(server.pid, disk) == []


def test_statistics(serving: Serving) -> None:
    server = serving()
    with Client(server.address) as client:
        client.attach()
        os.kill(server.pid, signal.SIGUSR1)
        client.getattr(client.root)
        client.getattr(client.root)
    server.close()
    (line,) = [line for line in server.log().splitlines() if "statistics: " in line]
    numbers = json.loads(line.partition("statistics: ")[2])
    assert numbers["requests"]["Tattach"] == 1
    assert numbers["connections"] == 1


def test_whoever_reads_its_output_may_go(source: Path, stage: Stage) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with running(*FUSEMAP, "serve", source, "--listen", f"unix:{stage.path}/socket", stdout=writer) as process:
        os.close(writer)
        assert process.stderr
        while b"serving" not in process.stderr.readline():
            pass
        assert works(f"unix:{stage.path}/socket")
        ended(process)


# Refusals -------------------------------------------------------------------------------------------------------------


def refused_by_sentence(done: Any, *words: str) -> None:
    """As `refused`, with log lines before the sentence."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines(keepends=True) if not line.startswith("INFO: ")]
    assert one_sentence("".join(lines)), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say where clients come from"),
        (["--listen", "localhost"], "write tcp:HOST:PORT"),
        (["--listen", "tcp:5640"], "write tcp:HOST:PORT"),
        (["--listen", "unix:/proc/none/socket"], "create it first"),
        (["--listen", "vsock:5640"], "write vsock:CID:PORT"),
        (["--listen", "fd:77,78"], "pass it on"),
        (["--listen", "systemd"], "no sockets were passed"),
        (["--listen", "tcp:127.0.0.1:0", "--trace", "/proc/none/trace"], "cannot write the trace"),
        (["--listen", "tcp:127.0.0.1:0", "--log", "/proc/none/log"], "cannot write the log"),
        (["--listen", "tcp:127.0.0.1:0", "--name", "x"], "write PATH=NAME"),
        (["--listen", "tcp:127.0.0.1:0", "--state", "nonsense"], "--state"),
        (["--listen", "unix:s", "--peers", "self", "--security", "none"], "--peers self"),
        (["--listen", "unix:s", "--peers", "self", "--security", "mapped-xattr"], "--peers self"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_refused(source: Path, arguments: list[str], said: str) -> None:
    refused_by_sentence(fusemap("serve", source, *arguments, timeout=20), said)


def test_a_source_that_is_not_there_or_no_directory(source: Path, stage: Stage) -> None:
    for path in (source / "missing", source / "f"):
        done = fusemap("serve", path, "--listen", f"unix:{stage.path}/socket")
        refused(done, str(path), "give a directory")
        assert not (stage.path / "socket").exists()


def test_passthrough_needs_root(source: Path) -> None:
    needs.root()
    done = fusemap(
        "serve", source, "--listen", "tcp:127.0.0.1:0", "--security", "passthrough", "--state", "none", user=ALICE
    )
    refused_by_sentence(done, "--security passthrough")


def test_a_trace_where_the_connection_is(source: Path) -> None:
    done = subprocess.run(
        [*FUSEMAP, "serve", str(source), "--listen", "fd:0,1", "--trace", "-"],
        input=b"", capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"write a file's name" in done.stderr


def test_a_wildcard_is_warned_of(source: Path) -> None:
    with running(*FUSEMAP, "serve", source, "--listen", "tcp:0.0.0.0:0") as process:
        assert process.stdout
        assert process.stdout.readline().startswith(b"listening on tcp:0.0.0.0:")
        log = ended(process)[1]
    assert b"WARNING: tcp:0.0.0.0:" in log
    assert b"can act as any user" in log


@pytest.mark.parametrize("arguments", [["--msize", "100"], ["--msize", "x"], ["--msize", "17M"], ["--security", "x"]])
def test_wrong_usage(source: Path, arguments: list[str]) -> None:
    done = fusemap("serve", source, *arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches() -> None:
    text = fusemap("serve", "--help").stdout
    for word in (
        "tcp:HOST:PORT", "unix:PATH", "vsock:CID:PORT", "fd:R,W", "systemd", "--security", "--msize", "--peers",
        "--trace", "--read-only", "--map", "--state", "--name", "listening on",
        "mount -t 9p -o trans=tcp,port=5640,version=9p2000.L,msize=1048576",
        "mount -t 9p -o trans=unix,version=9p2000.L,msize=1048576",
    ):  # fmt: skip
        assert word in text, word
    assert "serve" in fusemap("--help").stdout
