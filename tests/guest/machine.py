"""Real Linux guests: an initramfs with Debian's kernel modules, busybox and a program of ours, run by QEMU in software.

A guest has no disk and no shell to log in to. Its first process is an agent (inside/agent.c) that runs the scripts sent
to it through a virtio-serial port; that keeps results apart from what the kernel says on the console, needs no network,
and tells the agent when nobody is interested any more: it then switches the machine off. So a guest outlives neither
the test that started it nor, by PR_SET_PDEATHSIG, a test run that is killed.

Nothing here needs root; the mounts and servers that guests look at may.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..support import needs
from ..support.process import die_with_parent, run
from ..support.stage import watchdog

HERE: Final = Path(__file__).parent
MODULES: Final = (
    "virtio_pci", "virtio_net", "virtio_console", "9pnet_fd", "9pnet_virtio", "9p", "vsock_loopback", "fuse",
)  # fmt: skip
# What `Guest.load` loads: guests boot without. With cifs go the parts of the kernel that it asks for when it connects.
LATER: Final = {"cifs": ("sha512_generic", "cmac", "ctr", "ghash_generic", "gcm", "nls_utf8", "cifs")}
BUSYBOX: Final = "/bin/busybox"
HOST: Final = "10.0.2.2"  # the loopback of the host, by QEMU's user networking
BOOTING: Final = 90.0  # an idle machine takes 4
SECONDS: Final = 60.0
MEMORY: Final = 256  # MiB
_ANSWER: Final = struct.Struct("<II")


class Image:
    """The kernel and the initramfs that all guests of a test run share; made in the directory `scratch`."""

    def __init__(self, scratch: Path) -> None:
        needs.tools("qemu-system-x86_64", "gcc", "cpio", "modprobe", BUSYBOX)
        self.kernel = _kernel()
        self.initramfs = scratch / "initramfs"
        root = scratch / "root"
        for name in ("bin", "modules", "proc", "sys", "dev", "etc", "mnt", "tmp"):
            (root / name).mkdir(parents=True)
        shutil.copy(BUSYBOX, root / "bin" / "busybox")
        shutil.copy(HERE / "init.sh", root / "init")
        (root / "init").chmod(0o755)
        (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
        (root / "etc" / "group").write_text("root:x:0:\n")
        sources = sorted((HERE / "inside").glob("*.c"))
        run("gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-static", "-o", root / "bin/guest", *sources)
        release = self.kernel.name.partition("-")[2]
        first = _modules(release, MODULES)
        lists = {"order": first}
        for name, modules in LATER.items():
            lists[name] = [path for path in _modules(release, modules) if path not in first]
        for name, paths in lists.items():
            for path in paths:
                shutil.copy(path, root / "modules")
            (root / "modules" / name).write_text("".join(f"{path.name}\n" for path in paths))
        files = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
        with open(self.initramfs, "wb") as file:
            command = ["cpio", "-o", "-H", "newc", "--quiet", "--owner", "0:0"]
            subprocess.run(command, cwd=root, input=files.encode(), stdout=file, check=True, timeout=SECONDS)


def _kernel() -> Path:
    """The newest of the installed kernels that has 9P; Debian's -cloud kernels have none."""
    found = []
    for kernel in Path("/boot").glob("vmlinuz-*"):
        modules = Path("/lib/modules") / kernel.name.partition("-")[2]
        if any(modules.glob("kernel/fs/9p/9p.ko*")) and os.access(kernel, os.R_OK):
            found.append(kernel)
    if not found:
        needs.missing("no kernel with 9P is installed (Debian's linux-image-amd64)")
    return max(found, key=lambda path: path.stat().st_mtime)


def _modules(release: str, names: Sequence[str]) -> list[Path]:
    """These modules and those that they need, in order. What is part of the kernel is not among them."""
    found: list[Path] = []
    for name in names:
        for line in run("modprobe", "-S", release, "--show-depends", name).stdout.splitlines():
            word, path = line.split()[:2]
            if word == "insmod" and Path(path) not in found:
                found.append(Path(path))
    return found


class Guest:
    """A running guest: `sh` runs scripts in it, one at a time.

    `exports` are directories that QEMU itself serves (its 9pfs, multidevs=remap) under the mount tags "qemu0", "qemu1",
    and so on; `options` are more of QEMU's. It boots while the test does something else, such as starting another one:
    `up` waits for it, and leaving the context switches it off. `booted` is then how many seconds it took. The thread
    that starts a guest must outlive it: the kernel takes the end of that thread for the end of the parent.
    """

    def __init__(self, image: Image, scratch: Path, name: str, *exports: Path, options: Sequence[str] = ()) -> None:
        self.name = name
        self._console = scratch / f"{name}.console"
        self._messages = scratch / f"{name}.qemu"
        ours, theirs = socket.socketpair()
        command = [
            "qemu-system-x86_64", "-accel", "tcg", "-m", str(MEMORY), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append",
            # On a busy host the kernel sees no tick in the moment for which it looks for one, and panics.
            "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on no_timer_check",
            "-serial", f"file:{self._console}",
            "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={theirs.fileno()}",
            "-device", "virtserialport,chardev=agent",
        ]  # fmt: skip
        for n, path in enumerate(exports):
            command += ["-fsdev", f"local,id=fs{n},path={path},security_model=passthrough,multidevs=remap"]
            command += ["-device", f"virtio-9p-pci,fsdev=fs{n},mount_tag=qemu{n}"]
        command += options
        self._killed = False
        self._started = time.monotonic()
        self.booted = 0.0
        with open(self._messages, "wb") as file, theirs:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/", preexec_fn=die_with_parent,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip
        watchdog.guard(self._process.pid)
        self._socket = ours

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    def up(self) -> Guest:
        """Waits until the guest has booted. Raises AssertionError when it does not."""
        self.sh("true", timeout=BOOTING)
        self.booted = time.monotonic() - self._started
        return self

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attempt(self, script: str, timeout: float = SECONDS) -> tuple[int, str]:
        """Runs a script for sh; its exit status and its output.

        Raises AssertionError when the guest has ended or has not answered in `timeout` seconds; it is of no use then.
        """
        self._socket.settimeout(timeout)
        data = script.encode("utf-8", "surrogateescape")
        try:
            self._socket.sendall(struct.pack("<I", len(data)) + data)
            status, size = _ANSWER.unpack(self._receive(_ANSWER.size))
            return status, self._receive(size).decode("utf-8", "surrogateescape")
        except OSError as error:
            raise AssertionError(f"guest {self.name}: {error!r} in {script!r}\n{self.said()}") from None

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            block = self._socket.recv(min(size - len(data), 1 << 20))
            if not block:
                raise ConnectionResetError("the guest has ended")
            data += block
        return bytes(data)

    def sh(self, script: str, timeout: float = SECONDS) -> str:
        """Runs a script that must end with 0; its output."""
        status, output = self.attempt(script, timeout)
        assert status == 0, f"guest {self.name}: {script} -> {status}\n{output}\n{self.said()}"
        return output

    def json(self, *words: str, timeout: float = SECONDS) -> list[Any]:
        """Runs a program of the guest's that answers in lines of JSON."""
        return [json.loads(line) for line in self.sh(shlex.join(("guest", *words)), timeout).splitlines()]

    def load(self, name: str) -> None:
        """Loads the modules `LATER[name]`, if that was not done before."""
        self.sh(f"cd /modules; [ ! -e {name} ] || while read -r module; do insmod $module; done < {name}; rm -f {name}")

    def mount(self, address: str, at: str = "/mnt", **options: str | int) -> str:
        """Mounts what serves `address`; `at`.

        That is "tcp:127.0.0.1:PORT" of the host, "unix:PATH" of the guest's own, or the tag of an export. An option
        that is "" stands without a value.
        """
        if address.startswith("tcp:"):
            source, chosen = HOST, {"trans": "tcp", "port": address.rpartition(":")[2]}
        elif address.startswith("unix:"):
            source, chosen = address.partition(":")[2], {"trans": "unix"}
        else:
            source, chosen = address, {"trans": "virtio"}
        chosen |= {"version": "9p2000.L", "msize": "131072", **{name: str(value) for name, value in options.items()}}
        words = ",".join(f"{name}={value}" if value else name for name, value in chosen.items())
        self.sh(f"mkdir -p {at} && mount -t 9p -o {words} {source} {at}")
        return at

    def unmount(self, at: str = "/mnt") -> None:
        """Unmounts `at`. A process that was killed, or a file that was closed, may hold it for a moment yet.

        Raises AssertionError when that does not end.
        """
        end = time.monotonic() + SECONDS
        while True:
            status, output = self.attempt(f"umount {at}")
            if not status:
                return
            if "busy" not in output or time.monotonic() > end:
                raise AssertionError(f"guest {self.name}: {output}\n{self.said()}")

    def said(self) -> str:
        """What the kernel and QEMU have said, for messages of failed tests."""
        return "\n".join(path.read_text(errors="replace") for path in (self._console, self._messages) if path.exists())

    def kill(self) -> None:
        """As if its plug was pulled; nothing but `close` may follow."""
        self._killed = True
        self._kill()

    def close(self) -> None:
        """Waits until the guest has switched itself off. Raises AssertionError when it does not, or did so before."""
        if self._killed:
            return
        ended = self._process.poll() is not None
        self._socket.close()
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"guest {self.name} did not switch itself off\n{self.said()}") from None
        finally:
            self._kill()
        assert (ended, self._process.returncode) == (False, 0), f"guest {self.name} ended by itself\n{self.said()}"

    def _kill(self) -> None:
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(SECONDS)
        watchdog.release(self._process.pid)
