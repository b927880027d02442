"""The recipe for a Samba share is one that Samba and systemd take, and the try-out does what it prints."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..support import needs
from ..support.process import attempt, children, run, wait_exit
from ..support.stage import Stage

CHECKOUT = Path(__file__).resolve().parents[2]
RECIPE = CHECKOUT / "examples/samba"
TRY = (sys.executable, str(RECIPE / "try.py"))


def test_samba_takes_the_configuration() -> None:
    needs.tools("testparm")
    done = run("testparm", "--suppress-prompt", RECIPE / "smb.conf")
    assert "Loaded services file OK." in done.stderr
    assert not re.search("unknown|warning|error|ignor|deprecated|invalid", done.stderr, re.IGNORECASE), done.stderr
    assert "fruit:zero_file_id = no" in done.stdout
    assert "vfs objects = catia fruit streams_xattr" in done.stdout


def test_the_page_says_the_same_as_the_configuration() -> None:
    (block,) = re.findall(r"^```ini\n(.*?)^```", (RECIPE / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = {line.strip() for line in (RECIPE / "smb.conf").read_text().splitlines()}
    assert {line.strip() for line in block.splitlines()} <= lines
    for target in re.findall(r"\]\(([^)]+)\)", (RECIPE / "README.md").read_text()):
        assert (RECIPE / target).exists(), target


def test_systemd_takes_the_drop_in(tmp_path: Path) -> None:
    needs.tools("systemd-analyze")
    unit = Path("/lib/systemd/system/smbd.service")
    if not unit.exists():
        needs.missing("Samba's unit smbd.service is not installed")
    shutil.copy(unit, tmp_path)
    shutil.copytree(RECIPE / "smbd.service.d", tmp_path / "smbd.service.d")
    drop_in = tmp_path / "smbd.service.d/fusemap.conf"
    drop_in.write_text(re.sub(r"^#(\w+=)", r"\1", drop_in.read_text(), flags=re.MULTILINE))
    service = (CHECKOUT / "examples/systemd/fusemap@.service").read_text()
    (tmp_path / "fusemap@tree.service").write_text(service.replace("/usr/local/bin/fusemap", "/bin/true"))
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = attempt("systemd-analyze", "verify", tmp_path / "smbd.service", env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def trees(stage: Stage) -> list[Path]:
    """Two directories, the second with another file system in it."""
    needs.fuse()
    needs.tools("smbd", "smbpasswd", "smbclient", "setpriv", "unshare")
    if not any(Path("/usr/lib").glob("**/samba/vfs/fruit.so")):
        needs.missing("Samba's module fruit (Debian's samba-vfs-modules) is not installed")
    one, two = stage.directory("one/tree"), stage.directory("two/tree")
    stage.tmpfs(two / "inner")
    (one / "first").write_text("of one")
    (two / "inner/second").write_text("of two")
    return [one, two]


@contextmanager
def trying(stage: Stage, *words: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running try-out and what it has printed; at the end it is gone, with all that it started."""
    before = children()
    environment = {**os.environ, "TMPDIR": str(stage.directory("tmp")), "SUDO_USER": "root"}
    command = [*TRY, *map(str, words)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as it:
        try:
            assert it.stdout is not None
            said = ""
            for line in it.stdout:
                said += line
                if line.startswith("Ctrl-C"):
                    break
            yield it, said
        finally:
            it.kill()
            it.wait()
            while orphans := children() - before:
                for pid in orphans:
                    wait_exit(pid)


def test_it_serves_what_it_is_given(stage: Stage, trees: list[Path]) -> None:
    cores = Path("/var/log/samba/cores")  # which smbd makes beside its log, wherever that is
    before = cores.exists()
    with trying(stage, *trees) as (process, said):
        (line,) = [line for line in said.splitlines() if line.startswith("  smbclient ")]
        words = shlex.split(line)
        assert re.search(r"^ +tree +D ", run(*words).stdout, re.MULTILINE), said
        put = f"get tree/first -; get tree-2/inner/second -; put {TRY[1]} tree-2/inner/put"
        done = run(*words[: words.index("--command")], "--command", put)
        assert "of one" in done.stdout
        assert "of two" in done.stdout
        assert (trees[1] / "inner/put").read_text() == Path(TRY[1]).read_text()
        (shown,) = [Path(line.split()[-1]) for line in said.splitlines() if "is shown as one device at" in line]
        assert shown.stat().st_dev == (shown / "tree-2/inner/put").stat().st_dev
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.read().strip() == "stopped; everything is taken away"
        assert process.wait(60) == 0
    assert cores.exists() == before
    assert os.listdir(stage.path / "tmp") == []
    assert str(stage.path / "tmp") not in Path("/proc/self/mountinfo").read_text()


def test_all_agree_about_every_number(stage: Stage, trees: list[Path]) -> None:
    if importlib.util.find_spec("smbprotocol") is None:
        needs.missing("the library smbprotocol is not installed (fusemap[smb])")
    environment = {**os.environ, "TMPDIR": str(stage.directory("tmp")), "SUDO_USER": "root"}
    done = attempt(*TRY, "--check", *trees, env=environment, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("on 2 devices", "5 columns", "tree-2/inner/second", "the same in all columns"):
        assert word in done.stdout, done.stdout
    assert done.stderr == ""
    assert os.listdir(stage.path / "tmp") == []


def test_nothing_runs_on_when_it_is_killed(stage: Stage, trees: list[Path]) -> None:
    with trying(stage, trees[0]) as (process, said):
        assert "user root" in said
        process.kill()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        assert str(stage.path) not in entry.read_text(errors="replace")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["/dev/null"], "try: /dev/null is not a directory; name what is to be shared\n"),
        (["/", "--user", "no-one"], "try: this machine has no user no-one; name another with --user\n"),
    ],
)
def test_what_cannot_be_served_is_told(trees: list[Path], words: list[str], sentence: str) -> None:
    done = attempt(*TRY, *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


def test_it_asks_for_a_directory() -> None:
    done = attempt(*TRY)
    assert done.returncode == 2
    assert "usage: try.py" in done.stderr
