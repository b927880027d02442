"""Samba's own tests of SMB2: what passes on an ext4 passes on a fusemap mount of an ext4, with the same settings.

These are the tests that take little time. `python -m tests.samba.torture` runs all.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support import needs
from ..support.stage import Stage, watchdog
from . import torture
from .torture import Outcome

SECONDS = 600.0
WORKERS = 8
# What takes long: it makes thousands of files, measures, or waits for clients that do not answer.
LONG = {
    *("dir.fixed", "dir.many", "dir.sorted", "dir.file-index", "dir.large-files"),
    *("rename.rename_dir_bench", "create.bench-path-contention-shared"),
    *("acls.SDFLAGSVSCHOWN", "acls.INHERITFLAGS"),
}
OPLOCKS = {"exclusive5", "batch3", "batch5", "batch8", "batch13", "batch19", "batch21", "brl2", "levelii502", "doc"}


def chosen() -> list[str]:
    """The tests that are run here."""

    def short(name: str) -> bool:
        return name not in LONG and (not name.startswith("oplock.") or name.removeprefix("oplock.") in OPLOCKS)

    return [name for name in torture.known() if short(name) or name in torture.EXCEPTIONS]


@pytest.fixture(scope="module")
def compared() -> Iterator[torture.Compared]:
    """How every test ended on both sides."""
    needs.fuse()
    stage = Stage()
    try:
        with watchdog.limit(SECONDS):
            found = torture.Torture(stage, torture.groups(chosen(), torture.GROUP)).compare(WORKERS)
        yield found
    finally:
        with watchdog.limit(SECONDS):
            stage.close()


def test_what_passes_on_ext4_passes_on_the_mount(compared: torture.Compared) -> None:
    print(*torture.report(compared), sep="\n")
    differences = {name: both[1].detail for name, both in compared.items() if torture.differ(both)}
    assert set(differences) <= set(torture.EXCEPTIONS), differences


def test_every_exception_is_needed(compared: torture.Compared) -> None:
    for name in torture.EXCEPTIONS:
        assert torture.differ(compared[name]), f"{name} passes on the mount, or not even on ext4: no exception any more"


def test_the_tests_mean_something(compared: torture.Compared) -> None:
    by_suite: dict[str, list[bool]] = {suite: [] for suite in torture.SUITES}
    for name, (plain, _) in compared.items():
        by_suite[name.partition(".")[0]].append(plain.passed)
    assert all(any(passed) for passed in by_suite.values()), by_suite
    assert sum(map(sum, by_suite.values())) > 70


def test_what_a_mount_refuses_is_a_difference(stage: Stage) -> None:
    found = torture.Torture(stage, [("fileid.unique", "rename.simple")], "--read-only").compare(1)
    assert [torture.differ(both) for both in found.values()] == [True, True]


OUTPUT = """\
smbtorture 4.17.12-Debian
Using seed 1795399194
time: 2026-11-23 01:59:54.921363
progress: 4
test: smb2.dir.find
time: 2026-11-23 01:59:54.921662
Testing directory enumeration: 5 [
success: smb2.dir.find
test: smb2.dir.fixed
failure: smb2.dir.fixed [
../../source4/torture/smb2/dir.c:12: status was NT_STATUS_OK, expected [
NT_STATUS_ACCESS_DENIED
]
test: smb2.dir.one
skip: smb2.dir.one [not supported]
test: smb2.dir.many
error: smb2.dir.many [
]
test: smb2.dir.large-files
"""


def test_what_smbtorture_says_is_understood() -> None:
    assert torture.outcomes(OUTPUT) == {
        "smb2.dir.find": Outcome("success"),
        "smb2.dir.fixed": Outcome(
            "failure",
            "../../source4/torture/smb2/dir.c:12: status was NT_STATUS_OK, expected [ NT_STATUS_ACCESS_DENIED",
        ),
        "smb2.dir.one": Outcome("skip", "not supported"),
        "smb2.dir.many": Outcome("error"),
        "smb2.dir.large-files": Outcome("none"),
    }


def test_only_what_is_worse_on_the_mount_is_a_difference() -> None:
    good, bad, none = Outcome("success"), Outcome("failure", "status was wrong"), Outcome("none")
    found = {"dir.a": (good, good), "dir.b": (bad, good), "dir.c": (bad, none), "dir.d": (good, bad)}
    assert [name for name, both in found.items() if torture.differ(both)] == ["dir.d"]
    assert list(torture.report(found)) == [
        "dir.d: passes on ext4, failure on the mount",
        "    status was wrong",
        "4 tests: 2 pass on ext4, 2 on the mount",
    ]


def test_groups_are_of_one_suite() -> None:
    assert torture.groups(["a.1", "b.1", "a.2", "a.3"], 2) == [("a.1", "a.2"), ("a.3",), ("b.1",)]
