"""What a client does with a share: the works, the files they need, and whether they were really done.

The client is Samba's own smbclient, which is written in C and keeps several reads and writes in flight. It is asked for
the time before and after each work, so that neither its start nor the log-in is measured.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.samba.smbd import Smbd

_MIB: Final = 1 << 20
_CLOCK: Final = "!date +%s.%N >> {times}"
SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the work is: files in the directory that is listed, small files to copy, MiB of the large one."""

    files: int = 10_000
    small: int = 1_000
    mib: int = 256

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


def build(tree: Path, shape: Shape) -> None:
    """Makes what the works read below `tree`: many/, small/, large, and new/ to write to. Raises OSError."""
    for name, count in (("many", shape.files), ("small", shape.small)):
        (tree / name).mkdir()
        for number in range(count):
            (tree / name / f"file-{number:05}").write_bytes(b"%d\n" % number * (40 + number % 400))
    block = os.urandom(_MIB)
    with open(tree / "large", "wb") as file:
        for _ in range(shape.mib):
            file.write(block)
    (tree / "new").mkdir()
    os.sync()


@dataclass(frozen=True, slots=True)
class Work:
    """`commands` are smbclient's, in the local directory {here}; `check` looks at what came of them.

    It is called with the tree on the host, the client's directory and what smbclient printed, and raises ValueError.
    """

    key: str
    title: str
    commands: str
    check: Callable[[Path, Path, str], None]


def run(work: Work, smbd: Smbd, share: str, tree: Path, here: Path) -> float:
    """Seconds that the work took. Raises OSError when smbclient fails, ValueError when the result is wrong."""
    here.mkdir()
    times = here.with_suffix(".times")
    try:
        commands = (_CLOCK, *work.commands.split("; "), _CLOCK)
        lines = [command.format(here=here, tree=tree, times=times) for command in commands]
        done = subprocess.run(
            smbd.client_words(share),
            input="\n".join(lines),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise OSError(f"smbclient: {done.stdout[-500:]}{done.stderr[-500:]}")
        first, last = map(float, times.read_text().split())
        try:
            work.check(tree, here, done.stdout)
        except ValueError as error:
            raise ValueError(f"{work.title}, {share}: {error}; smbclient says:\n{done.stdout[-500:]}") from None
        return last - first
    finally:
        shutil.rmtree(here)
        times.unlink(missing_ok=True)
        for path in (smbd.shares[share].path / "new").iterdir():  # not behind the mount's back
            path.unlink()


def _listed(tree: Path, here: Path, said: str) -> None:
    found = len(re.findall(r"^  file-\d+ ", said, re.MULTILINE))
    if found != len(os.listdir(tree / "many")):
        raise ValueError(f"the listing has {found} files")


def _same(one: Path, other: Path) -> None:
    if sorted(os.listdir(one)) != sorted(os.listdir(other)):
        raise ValueError(f"{other} has {len(os.listdir(other))} files of the {len(os.listdir(one))} in {one}")
    for name in os.listdir(one):
        _large(one / name, other / name)


def _large(one: Path, other: Path) -> None:
    if not filecmp.cmp(one, other, shallow=False):
        raise ValueError(f"{other} is not what was copied from {one}")


WORKS: Final = (
    Work("list", "listing many files", "ls many\\*", _listed),
    Work(
        "get-small",
        "copying small files from the share",
        "prompt OFF; lcd {here}; cd small; mget *",
        lambda tree, here, _: _same(tree / "small", here),
    ),
    Work(
        "put-small",
        "copying small files to the share",
        "prompt OFF; lcd {tree}/small; cd new; mput *",
        lambda tree, here, _: _same(tree / "small", tree / "new"),
    ),
    Work(
        "get-large",
        "copying a large file from the share",
        "get large {here}/large",
        lambda tree, here, _: _large(tree / "large", here / "large"),
    ),
    Work(
        "put-large",
        "copying a large file to the share",
        "lcd {tree}; cd new; put large",
        lambda tree, here, _: _large(tree / "large", tree / "new/large"),
    ),
)
