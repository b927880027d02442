"""What a fid costs: by how much a server grows, and which descriptors it has, when a client holds many fids."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Final

from tests.benchmarks.known import descriptors, resident
from tests.benchmarks.p9 import load
from tests.benchmarks.p9.servers import Server
from tests.benchmarks.p9.works import IN_FLIGHT, MANY, Shape

LIMIT: Final = 1024


def measure(server: Server, program: Path, tree: Path, log: Path, shape: Shape) -> dict[str, float]:
    """With a new server that may open 1024 descriptors: "bytes_a_fid" of VmRSS, "descriptors", "fids".

    The fids are walked to the tree's files in turn, so that the nodes of these files are among what grows. Raises
    OSError.
    """
    words = ["fids", MANY, str(shape.files), str(shape.fids), str(IN_FLIGHT)]
    with server.running(tree, log, preexec_fn=_limit) as (port, pid, aname):
        with load.Paused(program, port, aname, words) as client:
            client.line()
            before = resident(pid)
            client.go_on()
            count = int(json.loads(client.line())["count"])
            return {
                "fids": count,
                "bytes_a_fid": (resident(pid) - before) / count,
                "descriptors": descriptors(pid),
            }


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
