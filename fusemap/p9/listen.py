"""Where clients come from: addresses as they are written on the command line, opened.

    tcp:HOST:PORT    HOST is a name, an IPv4 address, an [IPv6] address or * for every address of the machine
    unix:PATH        a socket of mode 0600
    vsock:CID:PORT   between a virtual machine and its host; CID is a number or any
    fd:R,W           no listener but one connection, on descriptors that are open already
    systemd          the sockets that systemd has opened: sd_listen_fds(3)

9P believes who a client says he is. So nothing is opened but what was written: who wants the whole network to come in
writes the wildcard out, and is told what that means. Whatever is wrong is a `Refused` whose sentence says what to do.

A Unix socket outlives the server that made it when that is killed. Such a stale one is replaced, one that somebody
listens to is not; between two servers that start at the same time the lock of the directory decides.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import stat
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Final

from fusemap.errors import Refused
from fusemap.p9.channel import look

log = logging.getLogger(__name__)

BACKLOG: Final = 128
_FIRST_PASSED: Final = 3  # SD_LISTEN_FDS_START
_LOCK_SECONDS: Final = 5.0
_ANY: Final = 0xFFFFFFFF  # VMADDR_CID_ANY and VMADDR_PORT_ANY, vsock(7)
_CIDS: Final = {"any": _ANY, "*": _ANY, "-1": _ANY}
FORMS: Final = "tcp:HOST:PORT, unix:PATH, vsock:CID:PORT, fd:R,W or systemd"


class Listener:
    """A socket that clients connect to; `address` names it as on the command line, with the port that it really has."""

    def __init__(self, listening: socket.socket, own_path: str | None = None) -> None:
        listening.setblocking(False)
        self.socket: Final = listening
        self.address: Final = address_of(listening.family, listening.getsockname())
        self._path = own_path
        self._made = None if own_path is None else _identity(own_path)

    def close(self) -> None:
        """Closes it, and removes the Unix socket from its directory if it is still the one that was made."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                if _identity(self._path) == self._made:
                    os.unlink(self._path)
        self.socket.close()


class Inherited:
    """A connection that is there already: a descriptor to read and one to write, or one socket twice."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader: Final = reader
        self.writer: Final = writer
        self.address: Final = f"fd:{reader},{writer}"

    def close(self) -> None:
        """Nothing: who serves it closes it."""


Source = Listener | Inherited


def open_all(words: Sequence[str], environment: MutableMapping[str, str] = os.environ) -> list[Source]:
    """Opens everything that `words` name, or what systemd passed when they name nothing. Raises Refused.

    What systemd says of its sockets is taken out of `environment`, so that no child takes it for its own.
    """
    passed = _passed(environment)
    found: list[Source] = []
    try:
        for word in words or (["systemd"] if passed else []):
            if word == "systemd":
                if not passed:
                    raise Refused(
                        "--listen systemd: no sockets were passed; start this by a socket unit (examples/systemd)"
                    )
                while passed:
                    found.append(_take_passed(*passed.pop(0)))
            else:
                found += _open(word)
    except BaseException:
        close_all(found)
        raise
    if not found:
        raise Refused(f"say where clients come from: --listen {FORMS}, for example --listen unix:/run/fusemap.sock")
    return found


def close_all(sources: Sequence[Source]) -> None:
    """Closes every one."""
    for source in sources:
        source.close()


def address_of(family: int, name: object) -> str:
    """An address of the socket module as it is written on the command line."""
    if family == socket.AF_INET and isinstance(name, tuple):
        return f"tcp:{name[0]}:{name[1]}"
    if family == socket.AF_INET6 and isinstance(name, tuple):
        return f"tcp:[{name[0]}]:{name[1]}"
    if family == socket.AF_VSOCK and isinstance(name, tuple):
        return f"vsock:{'any' if name[0] == _ANY else name[0]}:{name[1]}"
    return f"unix:{os.fsdecode(name) if isinstance(name, bytes) else name}"


def _open(word: str) -> list[Source]:
    kind, _, rest = word.partition(":")
    opener = {"tcp": _tcp, "unix": _unix, "vsock": _vsock, "fd": _inherited}.get(kind)
    if opener is None:
        raise Refused(f"--listen {word}: write {FORMS}")
    return list(opener(word, rest))


# tcp ------------------------------------------------------------------------------------------------------------------


def _tcp(word: str, rest: str) -> Iterator[Source]:
    parts = re.fullmatch(r"(\[(?P<six>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]+)", rest)
    host = parts and (parts["six"] or parts["host"])
    if not parts or not host:
        raise Refused(f"--listen {word}: write tcp:HOST:PORT, for example tcp:127.0.0.1:5640 or tcp:[::1]:5640")
    port = _number(word, parts["port"], 65535)
    opened = _tcp_sockets(word, host, port)
    for listener in opened:
        if not listener.socket.getsockname()[0].startswith(("127.", "::1")):
            _warn(listener.address)
    yield from opened


def _tcp_sockets(word: str, host: str, port: int) -> list[Listener]:
    every = host == "*"
    try:
        names = socket.getaddrinfo(
            None if every else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE if every else 0
        )
    except (OSError, UnicodeError) as error:
        raise Refused(f"--listen {word}: {host} cannot be found ({_reason(error)}); check the name") from None
    names.sort(key=lambda name: name[0] != socket.AF_INET)  # "localhost" is mostly meant as IPv4: print that first
    opened: list[Listener] = []
    missing: list[OSError] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(names):
            try:
                opened.append(_tcp_socket(family, kind, protocol, address))
            except OSError as error:
                # A name or * may stand for IPv6 where there is none; that is no reason to refuse the rest of it.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing.append(error)
        if not opened:
            raise missing[0]
    except OSError as error:
        close_all(opened)
        raise Refused(f"--listen {word}: {_advice(error)}") from error
    return opened


def _tcp_socket(family: int, kind: int, protocol: int, address: object) -> Listener:
    with contextlib.ExitStack() as undo:
        listening = undo.enter_context(socket.socket(family, kind, protocol))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
        listening.listen(BACKLOG)
        undo.pop_all()
    return Listener(listening)


# unix -----------------------------------------------------------------------------------------------------------------


def _unix(word: str, rest: str) -> Iterator[Source]:
    if not rest:
        raise Refused(f"--listen {word}: write unix:PATH, for example unix:/run/fusemap.sock")
    path = os.path.abspath(rest)
    try:
        with _directory_locked(word, os.path.dirname(path)):
            yield _unix_socket(word, path)
    except OSError as error:
        if error.errno is None:  # the socket module's own check
            raise Refused(f"--listen {word}: a socket's path has at most 107 bytes; choose a shorter one") from None
        raise Refused(f"--listen {word}: {_advice(error)}") from error


def _unix_socket(word: str, path: str) -> Listener:
    with contextlib.ExitStack() as undo:
        listening = undo.enter_context(socket.socket(socket.AF_UNIX))
        # The file gets the mode that the socket has when it is bound (unix_bind_bsd() in net/unix/af_unix.c): there is
        # no moment at which others could connect.
        os.fchmod(listening.fileno(), 0o600)
        try:
            listening.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _check_stale(word, path)
            os.unlink(path)
            listening.bind(path)
        listening.listen(BACKLOG)
        undo.pop_all()
    return Listener(listening, path)


def _check_stale(word: str, path: str) -> None:
    """Raises Refused unless `path` is a socket that nobody listens to."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise Refused(f"--listen {word}: {path} is there and is no socket; remove it or choose another path")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
        except BlockingIOError:  # its queue is full, so there is somebody
            pass
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # a datagram socket, in use
                raise
    raise Refused(f"--listen {word}: a server listens there already; stop it or choose another path")


@contextlib.contextmanager
def _directory_locked(word: str, path: str) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Refused(f"--listen {word}: another program has locked {path}; choose another place") from None
                time.sleep(0.01)  # another server that starts
        yield
    finally:
        os.close(fd)


def _identity(path: str) -> tuple[int, int, int]:
    st = os.lstat(path)
    return st.st_dev, st.st_ino, st.st_mtime_ns  # inode numbers are used again, and mode and owner may be changed


# vsock ----------------------------------------------------------------------------------------------------------------


def _vsock(word: str, rest: str) -> Iterator[Source]:
    cid, _, port = rest.partition(":")
    if not port.isdecimal() or not (cid in _CIDS or cid.isdecimal()):
        raise Refused(f"--listen {word}: write vsock:CID:PORT, for example vsock:any:5640")
    where = (_CIDS[cid] if cid in _CIDS else _number(word, cid, _ANY), _number(word, port, _ANY - 1) or _ANY)
    with contextlib.ExitStack() as undo:
        try:
            listening = undo.enter_context(socket.socket(socket.AF_VSOCK))
            listening.bind(where)
            listening.listen(BACKLOG)
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.ENODEV, errno.ESOCKTNOSUPPORT):
                raise Refused(
                    f"--listen {word}: this kernel has no vsock; load it (modprobe vhost_vsock) or listen on tcp"
                ) from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise Refused(f"--listen {word}: {cid} is no CID of this machine; write vsock:any:{port}") from error
            raise Refused(f"--listen {word}: {_advice(error)}") from error
        listener = Listener(listening)
        undo.pop_all()
    _warn(listener.address)
    yield listener


# What is open already -------------------------------------------------------------------------------------------------


def _inherited(word: str, rest: str) -> Iterator[Source]:
    parts = re.fullmatch(r"([0-9]{1,9}),([0-9]{1,9})", rest)
    if parts is None:
        raise Refused(f"--listen {word}: write fd:R,W, for example fd:0,1, or fd:3,3 for a socket")
    reader, writer = map(int, parts.groups())
    for fd, lacking, doing in ((reader, os.O_WRONLY, "reading"), (writer, os.O_RDONLY, "writing")):
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        except OSError:
            raise Refused(f"--listen {word}: descriptor {fd} is not open; pass it on when starting this") from None
        if flags & os.O_ACCMODE == lacking or flags & os.O_PATH:
            raise Refused(f"--listen {word}: descriptor {fd} is not open for {doing}; write fd:R,W in this order")
        found = _stream_socket(word, fd)
        if found is not None:
            with found:
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    raise Refused(f"--listen {word}: descriptor {fd} waits for connections; pass a connected socket")
        os.set_inheritable(fd, False)
    yield Inherited(reader, writer)


def _stream_socket(word: str, fd: int) -> socket.socket | None:
    """A look at socket `fd`; None when it is something else. Raises Refused for what carries no stream."""
    found = look(fd)
    if found is not None and found.type != socket.SOCK_STREAM:
        found.close()
        raise Refused(f"--listen {word}: descriptor {fd} is no stream socket; 9P needs one")
    return found


def _passed(environment: MutableMapping[str, str]) -> list[tuple[int, str]]:
    """The descriptors that systemd passed to this very process, with their names."""
    number, pid = environment.get("LISTEN_FDS", ""), environment.get("LISTEN_PID", "")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    if not number.isdecimal() or pid != str(os.getpid()):
        return []
    count = int(number)
    names += [""] * (count - len(names))
    return [(_FIRST_PASSED + index, names[index]) for index in range(count)]


def _take_passed(fd: int, name: str) -> Source:
    """A socket unit's socket: one that listens, or with Accept=yes a connection."""
    word = f"systemd (descriptor {fd}{', ' + name if name else ''})"
    try:
        found = _stream_socket(word, fd)
    except OSError:
        raise Refused(f"--listen {word}: LISTEN_FDS names a descriptor that is not open") from None
    if found is None:
        raise Refused(f"--listen {word}: this is no socket; the unit may have ListenStream= only")
    with found:
        family = found.family
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    os.set_inheritable(fd, False)
    if not listens:
        return Inherited(fd, fd)
    listener = Listener(socket.socket(fileno=fd))
    log.info("%s is the socket %s of the unit", listener.address, name or "without a name")
    if family != socket.AF_UNIX and not listener.address.startswith(("tcp:127.", "tcp:[::1]")):
        _warn(listener.address)
    return listener


# Sentences ------------------------------------------------------------------------------------------------------------


def _number(word: str, digits: str, most: int) -> int:
    if len(digits) > 10 or int(digits) > most:
        raise Refused(f"--listen {word}: {digits} is too large, {most} is the most")
    return int(digits)


def _warn(address: str) -> None:
    log.warning("%s: 9P has no passwords: anyone who reaches this address can act as any user", address)


_ADVICE: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "the address is in use; stop what uses it or choose another",
    errno.EADDRNOTAVAIL: "this machine does not have that address; write one of its own",
    errno.EAFNOSUPPORT: "this kernel does not know such addresses; choose another kind",
    errno.EACCES: "permission denied; choose a place or port that is open to you, or start this as root",
    errno.EPERM: "permission denied; choose a place or port that is open to you, or start this as root",
    errno.ENOENT: "the directory does not exist; create it first",
    errno.ENOTDIR: "that is not in a directory; check the path",
    errno.EROFS: "the file system is read-only; choose another path",
}


def _advice(error: OSError) -> str:
    return _ADVICE.get(error.errno or 0) or f"{_reason(error)}; choose another address"


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
