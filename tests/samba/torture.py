"""smbtorture on a plain ext4 directory and on a fusemap mount of another directory of that file system, side by side.

`python -m tests.samba.torture` (as root) runs every test of the suites, in some minutes, and prints the outcomes beside
each other; names choose, such as `dir` or `oplock.batch1`. test_smbtorture.py runs what takes no more than seconds.

One smbd serves both sides, with the same settings. Tests run in groups at the same time, each group on a share of its
own on either side: mostly they wait for locks and leases. What passes on the plain side and not on ours is run again on
both, alone: only what is so every time is a difference.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from ..support import needs, process
from ..support.process import ALICE
from ..support.stage import Stage
from .smbd import HOST, Share, Smbd

SUITES: Final = ("fileid", "dir", "rename", "getinfo", "create", "lock", "oplock", "streams", "acls")
SIDES: Final = ("plain", "fusemap")
MODULES: Final = ("acl_xattr", "streams_xattr")
AGAIN: Final = 2
GROUP: Final = 6
RUN_SECONDS: Final = 600.0

# test -> why it cannot pass on a mount that pyfuse3 makes; every one is looked at whether it is still needed
EXCEPTIONS: Final[Mapping[str, str]] = {}


class Outcome(NamedTuple):
    """How a test ended: "success", "failure", "error", "skip", or "none" when smbtorture ended before the test did."""

    word: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the server did what the test asks."""
        return self.word == "success"


Outcomes = dict[str, Outcome]

_LINE: Final = re.compile(r"(test|success|failure|error|skip): ([^\[]*?)(?: (\[.*))?")


def outcomes(text: str) -> Outcomes:
    """What smbtorture's subunit output says of each test; whatever the tests print in between is passed over."""
    found: Outcomes = {}
    lines = iter(text.splitlines())
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        word, name, rest = match[1], match[2].strip(), match[3]
        if word == "test":
            found.setdefault(name, Outcome("none"))
        else:
            found[name] = Outcome(word, _detail(rest, lines))
    return found


def _detail(rest: str | None, lines: Iterator[str]) -> str:
    """What stands in brackets after an outcome: on the same line, or up to a line with the closing one."""
    if rest is None or rest.endswith("]"):
        return (rest or "").strip("[] ")
    said = [rest.strip("[ ")]
    for line in lines:
        if line == "]":
            break
        said.append(line.strip())
    return " ".join(filter(None, said))


Compared = dict[str, tuple[Outcome, Outcome]]
"""test, such as "dir.find" -> how it ended on the plain side and on ours"""


def differ(both: tuple[Outcome, Outcome]) -> bool:
    """Whether the plain side passes and ours does not."""
    plain, ours = both
    return plain.passed and not ours.passed


def report(found: Compared) -> Iterator[str]:
    """The differences, and how many there are."""
    for name, both in found.items():
        if differ(both):
            reason = EXCEPTIONS.get(name)
            yield f"{name}: passes on ext4, {both[1].word} on the mount" + (f" ({reason})" if reason else "")
            yield f"    {both[1].detail}"
    words = [both[0].passed for both in found.values()], [both[1].passed for both in found.values()]
    yield f"{len(found)} tests: {sum(words[0])} pass on ext4, {sum(words[1])} on the mount"


def known(suites: Iterable[str] = SUITES) -> list[str]:
    """Every test of the suites, as "dir.find"."""
    needs.tools("smbtorture")
    # --list says each name twice: smb2.dir.find.find
    found = re.findall(r"^smb2\.(\w+\.[\w-]+)\.[\w-]+$", process.run("smbtorture", "--list").stdout, re.MULTILINE)
    return [name for suite in suites for name in found if name.startswith(f"{suite}.")]


def groups(names: Iterable[str], size: int) -> list[tuple[str, ...]]:
    """The names in groups of at most `size`, each of one suite."""
    by_suite: dict[str, list[str]] = {}
    for name in names:
        by_suite.setdefault(name.partition(".")[0], []).append(name)
    return [tuple(all_[n : n + size]) for all_ in by_suite.values() for n in range(0, len(all_), size)]


class Torture:
    """Both sides, ready to be tortured with these groups of tests; `options` are those of the mount."""

    def __init__(self, stage: Stage, chosen: Sequence[tuple[str, ...]], *options: str) -> None:
        needs.tools("smbtorture")
        disk = stage.ext4("disk", 512)
        source = stage.directory(disk / "source")
        self.mounted = stage.fusemap(source, *options)
        self._groups = list(chosen)
        plain = disk / "plain"
        shares = {}
        for number in range(len(self._groups)):
            for side, made, shared in (("plain", plain, plain), ("fusemap", source, self.mounted.path)):
                os.chown(stage.directory(made / str(number)), ALICE.uid, ALICE.gid)
                shares[f"{side}-{number}"] = Share(shared / str(number), vfs=MODULES)
        self.smbd = Smbd(stage, shares, users=[ALICE])

    def compare(self, workers: int, tell: Callable[[str], None] = lambda _: None) -> Compared:
        """How each test ended on the plain side and on ours, and again where ours looked worse."""

        def run(number: int) -> Compared:
            tests = self._groups[number]
            plain, ours = (self._run(side, number, tests) for side in SIDES)
            tell(", ".join(tests))
            return {name: (plain[name], ours[name]) for name in tests}

        found: Compared = {}
        with ThreadPoolExecutor(workers) as pool:
            for part in pool.map(run, range(len(self._groups))):
                found |= part
        for number, tests in enumerate(self._groups):
            for name in tests:
                for _ in range(AGAIN):
                    if differ(found[name]):
                        tell(f"{name} again")
                        plain, ours = (self._run(side, number, [name])[name] for side in SIDES)
                        found[name] = plain, ours
        self.mounted.check_log()
        self.smbd.check_log()
        return found

    def _run(self, side: str, number: int, tests: Sequence[str]) -> Outcomes:
        command = ["smbtorture", f"--configfile={self.smbd.config}", f"--smb-ports={self.smbd.port}", "--target=samba3"]
        command += [f"--user={ALICE.name}%{self.smbd.password}", "--format=subunit", "--fullname"]
        command += [f"--basedir={self.smbd.directory}", f"//{HOST}/{side}-{number}"]
        with tempfile.TemporaryFile() as output:
            with contextlib.suppress(subprocess.TimeoutExpired):  # tests that have not ended are "none"
                subprocess.run(
                    [*command, *(f"smb2.{name}" for name in tests)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=RUN_SECONDS,
                    check=False,
                    cwd=self.smbd.directory,
                )
            output.seek(0)
            said = output.read().decode(errors="replace")
        found = outcomes(said)
        return {name: found.get(f"smb2.{name}", Outcome("none", said[-300:])) for name in tests}


def main() -> int:
    """Exit status 0 without differences but the known ones, 1 with others, 2 when it cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.samba.torture",
        description="Runs smbtorture on a plain ext4 directory and on a fusemap mount of one, side by side.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"suites ({', '.join(SUITES)}) or tests (dir.find)")
    parser.add_argument("--workers", type=_count, default=8, metavar="N", help="groups of tests at a time (default 8)")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("smbtorture") is None:
        print("tests.samba.torture: run it as root, with Debian's samba-testsuite installed", file=sys.stderr)
        return 2
    every = known()
    names = [name for name in every if not options.names or {name, name.partition(".")[0]} & set(options.names)]
    if not names:
        print(f"tests.samba.torture: no such test; name suites or tests of {', '.join(SUITES)}", file=sys.stderr)
        return 2
    process.private_mounts()
    process.adopt_orphans()
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as scratch:
        process.set_environment(scratch)
        stage = Stage()
        try:
            found = Torture(stage, groups(names, GROUP)).compare(options.workers, lambda text: print(text, flush=True))
        finally:
            stage.close()
    print()
    for name, both in found.items():
        print(f"{name:50}{both[0].word:10}{both[1].word}")
    print("", *report(found), sep="\n")
    return int(any(differ(both) and name not in EXCEPTIONS for name, both in found.items()))


def _count(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
