"""What a known inode costs: memory and descriptors when a client knows a million of them.

They are empty files of one ext4, so that each is an inode (hard links are not), and the client is a find that stats
each file, after which the kernel remembers them all. The server may open 1024 descriptors, no more.

Run `python -m tests.benchmarks.known`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.benchmarks import sandbox
from tests.benchmarks.contenders import Contender
from tests.benchmarks.trees import mount_image

COUNT: Final = 1_000_000
LIMIT: Final = 1024
FILES_A_DIRECTORY: Final = 1000
_INODE_BYTES: Final = 256
_SAMPLE_SECONDS: Final = 0.1


def measure(directory: Path, count: int = COUNT, tell: Callable[[str], None] = lambda _: None) -> dict[str, float]:
    """Measures with `count` files, in a tree below `directory`, an empty one.

    "nodes" is how many inodes the server knew in the end, "bytes" by how much its VmRSS had grown, "bytes_an_inode"
    their ratio, "descriptors" the most that it had open, "server_seconds" its processor time. Raises OSError.
    """
    root, target = directory / "many", directory / "known"
    root.mkdir()
    _fill(directory, root, count, tell)
    tell(f"walking {count} files")
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "tests.benchmarks.serve", "--nodes", str(writer), "mount", "-f"]
    server = Contender("fusemap", lambda source, mount: [*command, source, mount])
    mounted = server.mounted(root, target, pass_fds=[writer], preexec_fn=_limit)
    with os.fdopen(reader) as answers, mounted as (mount, pid):
        before, seconds_before = resident(pid), processor_seconds(pid)
        most = _walk(mount, pid)
        after = resident(pid)
        seconds = processor_seconds(pid) - seconds_before
        os.kill(pid, signal.SIGUSR1)
        nodes = int(answers.readline())
        most = max(most, descriptors(pid))
    os.close(writer)
    subprocess.run(["umount", str(root)], check=True)
    return {
        "nodes": nodes,
        "bytes": after - before,
        "bytes_an_inode": (after - before) / nodes,
        "descriptors": most,
        "descriptor_limit": LIMIT,
        "server_seconds": seconds,
    }


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))


def _fill(directory: Path, root: Path, count: int, tell: Callable[[str], None]) -> None:
    inodes = count + count // FILES_A_DIRECTORY + 1024
    room = inodes * (_INODE_BYTES + 64) + (64 << 20)
    mount_image(directory, "ext4", room, root, "-N", str(inodes), "-I", str(_INODE_BYTES), "-O", "^has_journal")
    for number in range(count):
        if number % FILES_A_DIRECTORY == 0:
            parent = root / f"d{number // FILES_A_DIRECTORY:04}"
            parent.mkdir()
            fd = os.open(parent, os.O_PATH)
            tell(f"making {count} files: {number}")
        os.mknod(f"f{number}", 0o100644, dir_fd=fd)
        if number % FILES_A_DIRECTORY == FILES_A_DIRECTORY - 1 or number == count - 1:
            os.close(fd)


def _walk(mount: Path, pid: int) -> int:
    """Has find stat every file; returns the most descriptors that the server was seen with meanwhile."""
    most = 0
    with subprocess.Popen(["find", str(mount), "-size", "+1"], stdout=subprocess.DEVNULL) as client:
        while True:
            most = max(most, descriptors(pid))
            try:
                status = client.wait(_SAMPLE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
    if status:
        raise OSError(f"find failed with status {status}")
    return most


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """VmRSS in bytes (proc_pid_status(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"process {pid} is gone")


def processor_seconds(pid: int) -> float:
    """User and system time (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Prints the measurement as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.known", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many files (default {COUNT})")
    count = parser.parse_args().count

    def work(directory: Path) -> int:
        print(json.dumps(measure(directory, count), indent=2))
        return 0

    try:
        sandbox.need("mkfs.ext4")
        return sandbox.run(work)
    except sandbox.Missing as lack:
        print(f"tests.benchmarks.known: {lack}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
