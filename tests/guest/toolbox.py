"""A guest with the programs of the host: the host's root, shown to it read-only by QEMU, to run scripts in.

So a guest runs the host's own cp, tar, rsync, git and sqlite3 - and fusemap, on trees of the guest - without an image
that holds them. Only /mnt is the guest's own there, a tmpfs; what is mounted for scripts is mounted below it.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any, Final

from ..support import needs
from .machine import Guest

ROOT: Final = "/host"
OWN: Final = "/mnt"
PORT: Final = "tree"
PATIENCE: Final = 110.0  # seconds: Python in software emulation
_MOUNT: Final = "trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any,ro"
_SET_UP: Final = f"""
set -e
mkdir -p {ROOT}
mount -t 9p -o {_MOUNT} host {ROOT}
mount -t tmpfs tmpfs {ROOT}{OWN}
mount -t proc proc {ROOT}/proc
mount -t sysfs sys {ROOT}/sys
mount -t devtmpfs dev {ROOT}/dev
mkdir {ROOT}{OWN}/tmp {ROOT}{OWN}/state
"""


def options(port: Path) -> list[str]:
    """What the guest has to be made with; `port` is a Unix socket's path, see `Toolbox.port`."""
    return [
        "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
        "-chardev", f"socket,id={PORT},path={port},reconnect=1",
        "-device", f"virtserialport,chardev={PORT},name={PORT}",
    ]  # fmt: skip


class Toolbox:
    """The host's programs in `guest`, which was made with `options`. Paths are those that the scripts see.

    `port` is a socket on the host: when somebody listens there, QEMU connects it with the virtio-serial port "tree".
    """

    def __init__(self, guest: Guest, port: Path) -> None:
        if not os.path.isdir(OWN):
            needs.missing(f"there is no directory {OWN}")
        self.guest = guest
        self.port = port
        guest.sh(_SET_UP)

    def command(self, *words: str) -> str:
        """The words for the guest's sh to run a program of the host's."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ["PYTHONPATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "STATE_DIRECTORY": f"{OWN}/state",
            "TMPDIR": f"{OWN}/tmp",
            "HOME": f"{OWN}/tmp",
            "LC_ALL": "C",
        }
        settings = [f"{name}={value}" for name, value in environment.items()]
        return shlex.join(["chroot", ROOT, "/usr/bin/env", "-i", *settings, *words])

    def sh(self, script: str, timeout: float = PATIENCE) -> str:
        """Runs a script that must end with 0; its output."""
        return self.guest.sh(self.command("/bin/sh", "-euc", script), timeout)

    def mount(self, address: str, name: str, **options: str | int) -> str:
        """As Guest.mount, at /mnt/NAME; that path."""
        self.guest.mount(address, f"{ROOT}{OWN}/{name}", **options)
        return f"{OWN}/{name}"

    def attach(self, how: str, name: str, **options: str | int) -> str:
        """Mounts through descriptors as the guest's program attach does, told `how`, at /mnt/NAME; that path."""
        chosen = {"version": "9p2000.L", "msize": "131072", **{key: str(value) for key, value in options.items()}}
        words = ",".join(f"{key}={value}" for key, value in chosen.items())
        at = f"{ROOT}{OWN}/{name}"
        self.guest.sh(f"mkdir -p {at} && guest attach {at} {words} {how}", PATIENCE)
        return f"{OWN}/{name}"

    def unmount(self, at: str) -> None:
        """Unmounts what `mount` or `attach` has mounted."""
        self.guest.unmount(f"{ROOT}{at}")

    def outside(self, at: str) -> str:
        """What a path is called by the guest's own programs, which do not run in the host's root."""
        return ROOT + at

    def scan(self, at: str) -> dict[str, Any]:
        """What the guest's program scan says of a tree, by path."""
        lines = self.guest.json("scan", self.outside(at), timeout=PATIENCE)
        return {os.fsdecode(bytes.fromhex(line.pop("path"))): line for line in lines}
