"""Looks for new paths through codec and session, guided by coverage:

    python -m tests.p9.fuzz.run --seconds 300            as root, since a client may act as another user

Needs atheris (pip install atheris). It begins with corpus/, and with --found goes on from what it found the last time.
What fails is written into corpus/ and so becomes a test.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Nothing of fusemap is imported up here: it must be imported by the fuzzer, which puts its counters into the code.
CORPUS = Path(__file__).parent / "corpus"
TARGETS = ("session", "frame")


def main() -> int:
    """Parses the command line and fuzzes each target for its share of the time; 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.p9.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--found", type=Path, help="where to keep what reaches something new, to go on from there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return _fuzz(options.child, options.seconds, options.found)
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    targets = (options.target,) if options.target else TARGETS
    failed = False
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # each game makes and removes a small tree
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        for target in targets:
            found = (options.found or Path(scratch)) / target
            found.mkdir(parents=True, exist_ok=True)
            seconds = str(max(options.seconds // len(targets), 1))
            command = [sys.executable, "-m", "tests.p9.fuzz.run", "--child", target, "--seconds", seconds]
            done = subprocess.run([*command, "--found", found], check=False, env={**os.environ, "TMPDIR": scratch})
            failed |= done.returncode != 0
    return int(failed)


def _keep(target: str, data: bytes) -> Path:
    path = CORPUS / f"{target}-{hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def _fuzz(target: str, seconds: int, found: Path) -> int:
    """In a process of its own, which libFuzzer ends as it likes."""
    import atheris

    with atheris.instrument_imports(include=["fusemap.p9"]):
        from fusemap.p9.wire import Dialect

        from ..test_wire import same_or_wire_error
        from ..vectors import VECTORS
        from .harness import play_bytes

    def session(data: bytes) -> None:
        play_bytes(data)

    def frame(data: bytes) -> None:
        for dialect in Dialect:
            same_or_wire_error(data, dialect)

    one = session if target == "session" else frame

    def checked(data: bytes) -> None:
        try:
            one(data)
        except BaseException:
            print(f"fails: {_keep(target, data)}", file=sys.stderr)
            raise

    seeds = [str(path) for path in CORPUS.glob(f"{target}-*")]
    with tempfile.TemporaryDirectory() as start:
        for path in seeds:
            os.symlink(path, os.path.join(start, os.path.basename(path)))
        if target == "frame":
            for number, vector in enumerate(VECTORS):
                (Path(start) / str(number)).write_bytes(vector.frame)
        longest = 1500 if target == "session" else 400
        options = [f"-max_total_time={seconds}", f"-max_len={longest}", "-len_control=0", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], str(found), start, *options, f"-artifact_prefix={found.parent}/"], checked)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
