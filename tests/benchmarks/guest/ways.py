"""What is compared: servers, each with the transport by which the guest mounts it.

All of them are there during the whole boot and sleep while another is asked, so that every mount is a new one and every
server is warm:

    qemu      QEMU's own 9pfs, over virtio: no server beside QEMU
    diod      over TCP by QEMU's user networking
    fusemap   over the same
    serial    fusemap over a virtio-serial port, whose other end QEMU connects to the server's Unix socket (relay.c)

A vsock device is not among them: QEMU has one only where the host's kernel has /dev/vhost-vsock. Nor is a virtio
console in raw mode, a terminal that the kernel's client takes as it is (trans=fd): the kernel reads it 16 bytes at a
time, and writing a few MiB to it has stood still for minutes.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks.p9.servers import DIOD, Running, Server

if TYPE_CHECKING:
    from tests.guest.machine import Guest

MOUNTED: Final = "/mnt"
_PORT: Final = "fusemap"
_RELAY: Final = "relay"
_SOURCE: Final = Path(__file__).with_name("relay.c")


@dataclass(frozen=True, slots=True)
class Way:
    """A server and a transport. `mount` is given the guest, the port of `server`, the tree, and options as for -o."""

    name: str
    title: str
    server: str
    mount: Callable[[Guest, int, Path, dict[str, str | int]], None]


class Servers:
    """The servers of one tree, and the guest's end of what leads to them. `directory` has room for their files."""

    def __init__(self, directory: Path, tree: Path) -> None:
        self._directory, self._tree = directory, tree
        self._socket = directory / "serial"
        self._tools = directory / "tools"
        self.exports: Final = (tree, self._tools)
        self.log: Final = directory / "fusemap.log"
        self.running: dict[str, Running] = {}

    def options(self) -> list[str]:
        """What QEMU is to be told; it connects to the Unix socket when it starts."""
        return [
            *("-name", "guest,debug-threads=on"),
            *("-chardev", f"socket,id={_PORT},path={self._socket}"),
            *("-device", f"virtserialport,chardev={_PORT},name={_PORT}"),
        ]

    @contextlib.contextmanager
    def all(self) -> Iterator[Servers]:
        """Starts them. Raises OSError when one does not start or has ended before its time, CalledProcessError."""
        self._tools.mkdir()
        command = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-O2", "-static", "-pthread"]
        subprocess.run([*command, "-o", str(self._tools / _RELAY), str(_SOURCE)], check=True)
        with contextlib.ExitStack() as stack:
            for server in (DIOD, Server("fusemap", self._fusemap)):
                running = server.running(self._tree, self._directory / f"{server.name}.log")
                self.running[server.name] = stack.enter_context(running)
            yield self

    def _fusemap(self, tree: str, port: int) -> list[str]:
        addresses = ["--listen", f"tcp:127.0.0.1:{port}", "--listen", f"unix:{self._socket}"]
        # The tree is there for this once, so no numbers need to be kept for another day.
        return [sys.executable, "-m", "fusemap", "serve", tree, *addresses, "--state", "none"]

    def prepare(self, guest: Guest) -> None:
        """Brings what the guest needs into it, by the second export."""
        guest.mount("qemu1", MOUNTED)
        guest.sh(f"cp {MOUNTED}/{_RELAY} /bin/{_RELAY} && umount {MOUNTED}")

    def mount(self, guest: Guest, way: Way, **options: str | int) -> None:
        """Mounts the tree in the guest. Raises AssertionError."""
        running = self.running.get(way.server)
        way.mount(guest, running.port if running else 0, self._tree, options)


def _qemu(guest: Guest, port: int, tree: Path, options: dict[str, str | int]) -> None:
    guest.mount("qemu0", MOUNTED, **options)


def _tcp(guest: Guest, port: int, tree: Path, options: dict[str, str | int]) -> None:
    guest.mount(f"tcp:127.0.0.1:{port}", MOUNTED, aname=os.fspath(tree), uname="root", **options)


def _serial(guest: Guest, port: int, tree: Path, options: dict[str, str | int]) -> None:
    words = ",".join(f"{name}={value}" for name, value in {"version": "9p2000.L", **options}.items())
    found = f"$(grep -lx {_PORT} /sys/class/virtio-ports/*/name)"
    guest.sh(f"at={found}; at=${{at%/name}}; {_RELAY} /dev/${{at##*/}} {MOUNTED} {shlex.quote(words)}")


QEMU_WAY: Final = Way("qemu", "QEMU 9pfs, virtio", "", _qemu)
DIOD_WAY: Final = Way("diod", "diod, TCP", "diod", _tcp)
TCP_WAY: Final = Way("fusemap", "fusemap, TCP", "fusemap", _tcp)
SERIAL_WAY: Final = Way("serial", "fusemap, serial", "fusemap", _serial)
ALL: Final = (QEMU_WAY, DIOD_WAY, TCP_WAY, SERIAL_WAY)
