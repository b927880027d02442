"""Capability probes: what a test needs of the machine, and why it is skipped where that is missing.

With FUSEMAP_REQUIRE_ALL=1 in the environment a missing capability is a failure, so that a check that is meant to run
everything cannot pass by skipping - except for what a kernel is built without, which no installing brings.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
from typing import NoReturn

import pytest

_VSOCK_ANY = 0xFFFFFFFF
_VSOCK_LOCAL = 1
REQUIRE_ALL = os.environ.get("FUSEMAP_REQUIRE_ALL") == "1"


def missing(reason: str) -> NoReturn:
    """Skips the running test because of `reason`; fails it where everything is required."""
    if REQUIRE_ALL:
        pytest.fail(f"needed here, since FUSEMAP_REQUIRE_ALL=1: {reason}")
    pytest.skip(reason)


def tools(*names: str) -> None:
    """The test runs these programs."""
    for name in names:
        if shutil.which(name) is None:
            missing(f"the program {name} is not installed")


def program(name: str) -> str:
    """Where a program is that the test runs."""
    tools(name)
    found = shutil.which(name)
    assert found
    return found


def root() -> None:
    """The test mounts file systems and acts as other users."""
    if os.geteuid() != 0:
        missing("needs root, to mount file systems and act as other users")
    if not _may_mount():
        missing("needs the right to mount (CAP_SYS_ADMIN)")


def fuse() -> None:
    """The test mounts a tree."""
    root()
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        missing(f"/dev/fuse cannot be opened: {error.strerror}")


def file_system(kind: str) -> None:
    """The test mounts this kind of file system."""
    root()
    with open("/proc/filesystems") as file:
        known = {line.split()[-1] for line in file}
    if kind not in known and not shutil.which("modprobe"):
        missing(f"this kernel has no {kind}")
    if kind in ("ext4", "xfs", "btrfs"):
        tools(f"mkfs.{kind}")
        if not os.path.exists("/dev/loop-control"):
            missing("this machine has no loop devices")


@functools.cache
def _may_mount() -> bool:
    with open("/proc/self/status") as file:
        capabilities = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return bool(capabilities >> 21 & 1)


def vsock() -> None:
    """The test connects to itself by vsock: the kernel has it, and its loopback (vsock_loopback)."""
    try:
        with socket.socket(socket.AF_VSOCK) as listening, socket.socket(socket.AF_VSOCK) as probe:
            listening.bind((_VSOCK_ANY, _VSOCK_ANY))
            listening.listen()
            probe.settimeout(1)
            probe.connect((_VSOCK_LOCAL, listening.getsockname()[1]))
    except OSError as error:
        pytest.skip(f"this kernel does not connect to itself by vsock: {error.strerror or error}")


def ipv6() -> None:
    """The test listens on ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this kernel has no IPv6 loopback: {error.strerror}")
