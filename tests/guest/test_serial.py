"""9P through a virtio-serial port: no network in the guest, and no port of the host's that others could reach.

Linux's client takes any two descriptors (trans=fd), but not the port's own: since Linux 5.10 it needs files that have
read_iter, and the port's driver has read (__kernel_read() in fs/read_write.c, port_fops in
drivers/char/virtio_console.c). So socat stands between the port and a Unix socket of the guest's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..p9.conftest import build
from ..p9.served import STARTING, Served
from ..support import needs
from ..support.stage import Stage
from .conftest import populate
from .test_days import statistics
from .test_numbers import host_scan, shared
from .toolbox import OWN, PORT, Toolbox

SOCKET = f"{OWN}/relay.socket"
RELAY = f"""
port=/dev/$(basename "$(dirname "$(grep -lx {PORT} /sys/class/virtio-ports/*/name)")")
rm -f {SOCKET}
socat UNIX-LISTEN:{SOCKET} "$port" > /dev/null 2> {OWN}/socat.log &
until [ -S {SOCKET} ]; do kill -0 $! || {{ cat {OWN}/socat.log; exit 1; }}; sleep 0.05; done
"""


@pytest.fixture
def tree(stage: Stage) -> Path:
    """Four file systems with files."""
    top = build(stage)
    for part in (".", "subvol-a", "subvol-b", "tmpfs"):
        populate(top / part)
    return top


@pytest.fixture
def server(box: Toolbox, tree: Path, stage: Stage) -> Iterator[Served]:
    """`fusemap serve` to which QEMU has connected the port."""
    needs.tools("socat")
    with Served(tree, stage.path, "--listen", f"unix:{box.port}") as served:
        end = time.monotonic() + STARTING  # QEMU tries once a second
        while statistics(served)["clients"] < 2:
            assert time.monotonic() < end, "QEMU did not connect"
        yield served


def test_a_port(box: Toolbox, server: Served, tree: Path) -> None:
    host, numbers = host_scan(tree), []
    (tree / "contract").mkdir()
    for cache in ("none", "loose"):  # mounted twice: it is one connection, on which a client begins anew
        box.sh(RELAY)
        at = box.mount("unix:" + box.outside(SOCKET), "port", cache=cache, msize=1 << 20)
        try:
            *broken, last = box.guest.json("contract", box.outside(f"{at}/contract"), "9p2000.L", cache)
            assert (broken, last["tried"] > 250) == ([], True)
            box.sh(f"head -c 3000000 /dev/urandom > {at}/data")
            assert box.sh(f"cat {at}/data | sha256sum") == box.sh(f"sha256sum < {at}/data")
            (tree / "data").unlink()
            seen = box.scan(at)
        finally:
            box.unmount(at)
        del seen["contract"]
        assert seen.keys() == host.keys()
        assert not shared(seen, host)
        numbers.append({path: line["ino"] for path, line in seen.items()})
    assert numbers[0] == numbers[1]
    assert os.listdir(tree / "contract") == []
