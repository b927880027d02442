"""A private smbd: an ordinary process on a free port of the loopback, with everything that it keeps below a stage.

Nothing of the machine's own Samba is read or written: the configuration, the passwords, the sockets and the databases
are the stage's, and so are the users, whom nss_wrapper(1) shows to this smbd only.

smbd forks for every connection, and those processes outlive it by a moment. So it runs as the first process of a pid
namespace: when it ends, however that comes about, the kernel ends all the others before anybody is told. It shares the
mount namespace of the tests, though. In one of its own it would go on seeing, and keep busy, what a test unmounts.

It says that it is ready as it would to systemd, sd_notify(3), and listens a moment later.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..support import needs
from ..support.process import ALICE, BOB, ROOT, SECONDS, User, attempt, die_with_parent, run
from ..support.stage import Stage, pidfd, watchdog

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
_TRIES: Final = 5
_UNSHARE: Final = ("unshare", "--pid", "--fork", "--kill-child")
_NOBODY: Final = 65534
_MOMENT: Final = 0.005
_LISTEN: Final = "0A"


@dataclass(frozen=True)
class Share:
    """A directory, the modules beneath its share, and other settings of it as smb.conf(5) names them."""

    path: Path
    vfs: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def lines(self, name: str) -> list[str]:
        """The share's section of smb.conf."""
        lines = [f"[{name}]", f"path = {self.path}", "read only = no"]
        if self.vfs:
            lines.append(f"vfs objects = {' '.join(self.vfs)}")
        return [*lines, *(f"{key} = {value}" for key, value in self.settings.items())]


class Smbd:
    """A running smbd on 127.0.0.1 with these shares; it ends with the stage.

    `settings` are added to the global ones. Every one of `users` may log in with `password`; whoever gives no name, or
    one that is not theirs, is the guest.
    """

    def __init__(
        self,
        stage: Stage,
        shares: Mapping[str, Share | Path],
        settings: Mapping[str, str] | None = None,
        users: Sequence[User] = (ROOT, ALICE, BOB),
        name: str = "smbd",
    ) -> None:
        needs.root()
        needs.tools("smbd", "smbpasswd", "unshare")
        self.directory = stage.directory(name)
        self.directory.chmod(0o755)
        self.config = self.directory / "smb.conf"
        self.shares = {key: share if isinstance(share, Share) else Share(share) for key, share in shares.items()}
        self.users = list(users)
        self.password = secrets.token_hex(8)
        self.port = _free_port()
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._checked = 0
        self._environment = {**os.environ, **self._name_users()}
        self._configure()
        self._set_passwords()
        stage.after(self.close)
        for _ in range(_TRIES):
            self.port = _free_port()
            self._configure()
            try:
                self.start()
                return
            except ChildProcessError:
                if "Address already in use" not in self.log():  # somebody took the port before smbd did
                    break
                (self.directory / "log").unlink()
        raise AssertionError(f"smbd did not start:\n{self.log()}")

    @property
    def pid(self) -> int:
        """The process id of the smbd that listens."""
        assert self._process is not None, "smbd is not running"
        (child,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(child)

    def unc(self, share: str) -> str:
        """The share as `fusemap check --smb` takes it."""
        return f"//{HOST}:{self.port}/{share}"

    def log(self) -> str:
        """What smbd has logged."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Starts it on the same port as before; it can be used when this returns. Raises ChildProcessError."""
        assert self._process is None, "smbd is running already"
        place = self.directory / "ready"
        place.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(self.directory / "log", "ab") as log:
            ready.bind(str(place))
            command = ["smbd", "--foreground", "--no-process-group", "--debug-stdout", f"--configfile={self.config}"]
            self._process = subprocess.Popen(
                [*_UNSHARE, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._environment, "NOTIFY_SOCKET": str(place)},
                cwd="/",
                start_new_session=True,  # at its end smbd sends SIGTERM to its whole process group
                preexec_fn=die_with_parent,
            )
            watchdog.guard(self._process.pid)
            try:
                self._wait_ready(ready)
            except BaseException:
                self.kill()
                raise

    def stop(self) -> None:
        """Ends it as a service manager does, and waits until all its processes are gone."""
        assert self._process is not None, "smbd is not running"
        with suppress(ValueError, ProcessLookupError):  # it has ended by itself
            os.kill(self.pid, signal.SIGTERM)
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"smbd did not end:\n{self.log()}") from None
        self._gone()
        assert status == 0, f"smbd ended with status {status}:\n{self.log()}"

    def kill(self) -> None:
        """kill -9 of it and all its processes."""
        if self._process is not None:
            try:
                os.kill(self.pid, signal.SIGKILL)  # unshare ends with it
            except (ValueError, ProcessLookupError):  # not there yet, or not any more
                self._process.kill()
            self._process.wait(STOP_SECONDS)
            self._gone()

    def restart(self) -> None:
        """Stops it and starts it again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Ends it if it is running; an error when it did not end well, or one of its processes crashed meanwhile."""
        if self._process is not None:
            self.stop()
        self.check_log()

    def check_log(self) -> None:
        """Fails when one of its processes has crashed since the last call."""
        text = self.log()
        new, self._checked = text[self._checked :], len(text)
        assert not any(word in new for word in ("INTERNAL ERROR", "PANIC")), f"smbd crashed:\n{new}"

    def _gone(self) -> None:
        assert self._process is not None
        watchdog.release(self._process.pid)
        self._process = None

    def client(
        self, share: str, commands: str, user: User = ROOT, *options: str, timeout: float = SECONDS
    ) -> str:
        """What smbclient prints when it does the commands, of which there is one between every two semicolons.

        Raises AssertionError when one fails.
        """
        words = self.client_words(share, user)
        return run(*words, *options, "--command", commands, timeout=timeout).stdout

    def client_words(self, share: str, user: User = ROOT) -> list[str]:
        """The command of a client that is connected to the share."""
        needs.tools("smbclient")
        where = [f"--configfile={self.config}", f"--port={self.port}", f"//{HOST}/{share}"]
        return ["smbclient", *where, f"--user={user.name}%{self.password}"]

    def _wait_ready(self, ready: socket.socket) -> None:
        """Waits until it is ready and listens. Raises ChildProcessError when it has ended before, or TimeoutError."""
        assert self._process is not None
        end = time.monotonic() + START_SECONDS
        said = False
        with pidfd(self._process.pid) as ended:
            while time.monotonic() < end:
                readable = select.select([ready.fileno(), ended], [], [], _MOMENT if said else START_SECONDS)[0]
                if ready.fileno() in readable:
                    said |= "READY=1" in ready.recv(4096).decode().splitlines()
                elif readable:
                    raise ChildProcessError("smbd ended before it was ready")
                with suppress(ValueError, FileNotFoundError):  # it is ending
                    if said and _listens(self.pid, self.port):
                        return
        raise TimeoutError(f"smbd was not ready after {START_SECONDS} s")

    def _name_users(self) -> dict[str, str]:
        """The environment in which a program knows the users, and nobody."""
        nobody = User(_NOBODY, _NOBODY, name="nobody")
        passwd, group = self.directory / "passwd", self.directory / "group"
        each = [*self.users, nobody]
        passwd.write_text("".join(f"{user.name}:x:{user.uid}:{user.gid}::/:/bin/false\n" for user in each))
        members: dict[int, list[str]] = {user.gid: [] for user in each}
        for user in each:
            for gid in user.groups:
                members.setdefault(gid, []).append(user.name)
        names = {user.gid: user.name for user in each}
        lines = (f"{names.get(gid, f'group{gid}')}:x:{gid}:{','.join(who)}\n" for gid, who in members.items())
        group.write_text("".join(lines))
        found = {
            "LD_PRELOAD": "libnss_wrapper.so",
            "NSS_WRAPPER_PASSWD": str(passwd),
            "NSS_WRAPPER_GROUP": str(group),
            "LC_ALL": "C.UTF-8",
        }
        if attempt("true", env={**os.environ, **found}).stderr:  # what the loader says of a library that it cannot find
            needs.missing("the library nss_wrapper (Debian's libnss-wrapper) is not installed")
        return found

    def _configure(self) -> None:
        """Writes smb.conf."""
        private = {
            f"{kind} {'directory' if kind not in ('private', 'ncalrpc') else 'dir'}": str(self.directory / kind)
            for kind in ("private", "state", "cache", "lock", "pid", "ncalrpc")
        }
        for place in private.values():
            Path(place).mkdir(exist_ok=True, mode=0o755)
        settings = {
            "netbios name": "fusemap",
            "server role": "standalone server",
            "interfaces": HOST,
            "bind interfaces only": "yes",
            "smb ports": str(self.port),
            "disable netbios": "yes",
            **private,
            "server min protocol": "SMB2",
            "map to guest": "bad user",
            "guest account": "nobody",
            # No printers, which smbd would ask the machine for
            "load printers": "no",
            "printing": "bsd",
            "printcap name": "/dev/null",
            "disable spoolss": "yes",
            "log level": "1",
            "log file": str(self.directory / "log.%m"),  # not used, but what smbd leaves when it crashes goes beside it
            **self._settings,
        }
        lines = ["[global]", *(f"{key} = {value}" for key, value in settings.items())]
        for name, share in self.shares.items():
            lines += ["", *share.lines(name)]
        self.config.write_text("\n".join(lines) + "\n")

    def _set_passwords(self) -> None:
        for user in self.users:
            done = subprocess.run(
                ["smbpasswd", "-c", self.config, "-s", "-a", user.name],
                input=f"{self.password}\n{self.password}\n",
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            assert done.returncode == 0, f"smbpasswd: {done.stdout}{done.stderr}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _listens(pid: int, port: int) -> bool:
    """Whether the process listens on the port, and not somebody else (proc_net(5))."""
    address = f"0100007F:{port:04X}"
    with open("/proc/net/tcp") as table:
        words = [line.split() for line in table]
    sockets = {f"socket:[{word[9]}]" for word in words if word[1] == address and word[3] == _LISTEN}
    found = False
    for fd in os.listdir(f"/proc/{pid}/fd") if sockets else ():
        with suppress(OSError):
            found |= os.readlink(f"/proc/{pid}/fd/{fd}") in sockets
    return found
