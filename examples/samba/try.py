#!/usr/bin/env python3
"""Directories as one Samba share, privately: `sudo python3 examples/samba/try.py DIR...`

Shows the directories, with everything mounted beneath them, as one device, serves it by an smbd of its own on a free
port of the loopback with the settings of smb.conf beside this file, says how to connect, and takes all of it away on
Ctrl-C. `--check` asks fusemap check --smb instead: whether host, mount, SMB and 9P agree about every file's number.

Needs root, a FUSE device, Samba, and a Python that has fusemap. The machine's own Samba is neither read nor changed.
Beneath the directories nothing is changed but what clients change; the table of numbers is kept outside of them.

Everything runs with mounts and process numbers of its own, as in examples/demo: however this ends, the kernel takes
away the mounts and ends the servers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import pwd
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

HERE: Final = Path(__file__).resolve().parent
HOST: Final = "127.0.0.1"
SHARE: Final = "tree"
PROGRAMS: Final = {"smbd": "samba", "smbpasswd": "samba-common-bin", "mount": "mount", "unshare": "util-linux"}
MODULES: Final = "samba-vfs-modules"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0
_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ALONE: Final = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")
# What is not as on a real server; the rest is smb.conf's.
_CONFIGURATION: Final = """\
include = {recipe}
[global]
netbios name = fusemap
interfaces = {host}
bind interfaces only = yes
smb ports = {port}
private dir = {place}/private
state directory = {place}/state
cache directory = {place}/cache
lock directory = {place}/lock
pid directory = {place}/pid
ncalrpc dir = {place}/ncalrpc
log file = {place}/log.%m
load printers = no
printing = bsd
printcap name = /dev/null
disable spoolss = yes
[{share}]
path = {mount}
valid users = {user}
"""


class Refused(Exception):
    """It cannot run here; the message is one sentence that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 at Ctrl-C or when the check was good, 1 when it was not, 2 when it cannot run here."""
    parser = argparse.ArgumentParser(
        description="Shows directories as one device and serves it as a private Samba share, until Ctrl-C.",
        epilog="The recipe for a real server is README.md beside this program.",
    )
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="what to share, one or several")
    parser.add_argument("--user", default=os.environ.get("SUDO_USER", "root"), help=_USER_HELP)
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1 (default: a free one)")
    parser.add_argument("--check", action="store_true", help="no waiting: fusemap check --smb, and its exit status")
    parser.add_argument("--inside", nargs=2, metavar=("PLACE", "PID"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.inside:
            return _serve(options, Path(options.inside[0]), int(options.inside[1]))
        _look_around(options)
        return _run(sys.argv[1:] if arguments is None else arguments)
    except Refused as refusal:
        print(f"try: {refusal}", file=sys.stderr)
        return 2
    except _Stopped as stopped:
        if options.inside:
            return 128 + stopped.number
        print("\nstopped; everything is taken away", flush=True)
        return 0 if stopped.number == signal.SIGINT and not options.check else 128 + stopped.number


_USER_HELP: Final = "who logs in, a user of this machine; new files are his (default: who ran sudo, or root)"


class _Stopped(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _: FrameType | None) -> NoReturn:
    raise _Stopped(number)


# Outside --------------------------------------------------------------------------------------------------------------


def _look_around(options: argparse.Namespace) -> None:
    """Raises Refused where something is missing."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where an ordinary root shell may not look
    if os.geteuid() != 0:
        raise Refused(f"it mounts and serves as other users, so run it as root: sudo {sys.executable} {sys.argv[0]}")
    if not os.path.exists("/dev/fuse"):
        raise Refused("/dev/fuse is missing; load the kernel's fuse module: modprobe fuse")
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if not missing and not any(Path("/usr/lib").glob("**/samba/vfs/fruit.so")):
        missing = [MODULES]
    if missing:
        raise Refused(f"install these first (Debian's names): apt-get install {' '.join(missing)}")
    for module, extra in (("pyfuse3", ""), ("smbprotocol", "[smb]")) if options.check else (("pyfuse3", ""),):
        if not all(importlib.util.find_spec(name) for name in ("fusemap", module)):
            raise Refused(f"install fusemap first: {sys.executable} -m pip install '{HERE.parent.parent}{extra}'")
    try:
        pwd.getpwnam(options.user)
    except KeyError:
        raise Refused(f"this machine has no user {options.user}; name another with --user") from None
    for directory in options.directories:
        if not directory.is_dir():
            raise Refused(f"{directory} is not a directory; name what is to be shared")


def _run(arguments: Sequence[str]) -> int:
    """This program again, in a private place."""
    for number in _STOPS:
        signal.signal(number, _stop)
    place = Path(tempfile.mkdtemp(prefix="fusemap-samba-"))
    place.chmod(0o755)  # smbd goes there as whoever logs in
    # The shell's process id stays that of the place's outermost process, by which others can look into it.
    script = 'exec setpriv --pdeathsig KILL "$@" --inside "$PLACE" $$'
    try:
        process = subprocess.Popen(
            ["sh", "-c", script, "try", *_ALONE, sys.executable, str(HERE / "try.py"), *arguments],
            env={**os.environ, "PLACE": str(place)},
            start_new_session=True,  # the terminal's Ctrl-C comes to us alone
        )
        try:
            return process.wait()
        finally:
            for number in _STOPS:
                signal.signal(number, signal.SIG_IGN)
            _end(process)
    finally:
        shutil.rmtree(place)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the first process of the place, with which all others end before its parent hears of it."""
    with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        process.wait(STOP_SECONDS)
    process.kill()
    process.wait()


# Inside ---------------------------------------------------------------------------------------------------------------


def _serve(options: argparse.Namespace, place: Path, pid: int) -> int:
    """All there is to be done; `pid` is what others know the outermost process of the place by."""
    signal.signal(signal.SIGTERM, _stop)
    source = _one_roof(options.directories, place)
    mount = place / "mount"
    mount.mkdir()
    fusemap = [sys.executable, "-m", "fusemap"]
    table = ["--state", f"sqlite:{place}/table"]
    _must([*fusemap, "mount", str(source), str(mount), *table])
    password = secrets.token_urlsafe(9)
    with _samba(options, place, mount, password) as (smbd, port):
        if options.check:
            with _9p(fusemap, source, table, place) as address:
                return _check(fusemap, mount, options.user, password, port, address)
        print(_WORDS.format(**locals(), host=HOST, share=SHARE, user=options.user, shown=f"/proc/{pid}/root{mount}"))
        print("Ctrl-C ends it.", flush=True)
        return smbd.wait()


_WORDS: Final = """\
{source} is shown as one device at {shown}
and served by Samba at //{host}:{port}/{share}, user {user}, password {password}

In another terminal, look at it with Samba's client, or mount it as root:
  smbclient //{host}/{share} --port {port} --user '{user}%{password}' --command 'ls'
  mount -t cifs //{host}/{share} /mnt -o port={port},username={user},password={password},serverino
and see that every file's number is its own, the same by stat as by SMB:
  FUSEMAP_SMB_PASSWORD='{password}' fusemap check --smb //{host}:{port}/{share} --user {user} {shown}
"""


def _one_roof(directories: Sequence[Path], place: Path) -> Path:
    """The directory itself, or a new one in which several stand side by side."""
    if len(directories) == 1:
        return directories[0].resolve()
    roof = place / "tree"
    roof.mkdir()
    for directory in map(Path.resolve, directories):
        name, number = directory.name or "root", 1
        while (roof / name).exists():
            number += 1
            name = f"{directory.name or 'root'}-{number}"
        (roof / name).mkdir()
        _must(["mount", "--rbind", str(directory), str(roof / name)])
    return roof


@contextlib.contextmanager
def _samba(
    options: argparse.Namespace, place: Path, mount: Path, password: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A running smbd and its port."""
    port = options.port or _free_port()
    configuration = place / "smb.conf"
    words = {"recipe": HERE / "smb.conf", "host": HOST, "share": SHARE, "user": options.user}
    configuration.write_text(_CONFIGURATION.format(**words, port=port, place=place, mount=mount))
    for name in ("private", "state", "cache", "lock", "pid", "ncalrpc"):
        (place / name).mkdir()
    _must(["smbpasswd", "-c", str(configuration), "-s", "-a", options.user], f"{password}\n{password}\n")
    log = place / "smbd.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(log, "wb") as output:
        ready.bind(str(place / "ready"))  # sd_notify(3)
        command = ["smbd", "--foreground", "--no-process-group", "--debug-stdout", f"--configfile={configuration}"]
        smbd = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "NOTIFY_SOCKET": str(place / "ready")},
            start_new_session=True,  # at its end smbd sends SIGTERM to its whole process group
        )
        if not _answers(smbd, ready, port):
            raise Refused(f"smbd did not start; it says: {log.read_text(errors='replace').strip()}")
        yield smbd, port


def _answers(smbd: subprocess.Popen[bytes], ready: socket.socket, port: int) -> bool:
    """Waits until smbd has said that it is ready and, a moment later, listens; False when it does not."""
    ended = os.pidfd_open(smbd.pid)
    if select.select([ready, ended], [], [], START_SECONDS)[0] != [ready]:
        return False
    while not select.select([ended], [], [], 0.01)[0]:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection((HOST, port)).close()
            return True
    return False


@contextlib.contextmanager
def _9p(fusemap: list[str], source: Path, table: list[str], place: Path) -> Iterator[str]:
    """The address of a running 9P server of the same tree."""
    log = place / "9p.log"
    with open(log, "wb") as output:
        command = [*fusemap, "serve", str(source), "--listen", f"tcp:{HOST}:0", *table]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line.startswith("listening on "):
        raise Refused(f"fusemap serve did not start; it says: {log.read_text(errors='replace').strip()}")
    yield line.split()[-1]


def _check(fusemap: list[str], mount: Path, user: str, password: str, port: int, address: str) -> int:
    """fusemap check --smb; its exit status."""
    command = [*fusemap, "check", "--smb", f"//{HOST}:{port}/{SHARE}", "--user", user, "--9p", address, str(mount)]
    return subprocess.run(command, check=False, env={**os.environ, "FUSEMAP_SMB_PASSWORD": password}).returncode


def _must(command: Sequence[str], text: str = "") -> None:
    """Runs a command. Raises Refused when it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
