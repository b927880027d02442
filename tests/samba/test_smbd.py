"""The private smbd itself: what the other tests here take for granted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.process import ALICE, BOB, ROOT, User, wait_exit
from ..support.stage import Stage
from . import smbd as smbd_module
from .smbd import Share, Smbd

STRANGER = User(0, 0, name="stranger")


def test_it_serves_plain_directories_and_mounts(stage: Stage) -> None:
    source = stage.directory("src")
    mounted = stage.fusemap(source)
    plain = stage.directory("plain")
    streams = Share(plain, vfs=["streams_xattr"])
    open_to_all = Share(plain, settings={"guest ok": "yes", "read only": "yes"})
    for path in (source, plain):
        path.chmod(0o777)
    smbd = Smbd(stage, {"plain": plain, "mount": mounted.path, "streams": streams, "open": open_to_all})
    (stage.path / "said").write_text("hello")
    for share, where in (("plain", plain), ("mount", source), ("streams", plain)):
        smbd.client(share, f"put {stage.path}/said {share}-said", user=ALICE)
        assert (where / f"{share}-said").read_text() == "hello"
        assert (where / f"{share}-said").stat().st_uid == ALICE.uid
        assert f"{share}-said" in smbd.client(share, "ls", user=BOB)
    assert "plain-said" in smbd.client("open", "ls", user=STRANGER)
    with pytest.raises(AssertionError, match="ACCESS_DENIED"):
        smbd.client("plain", "ls", user=STRANGER)


def test_it_is_the_same_after_a_restart(stage: Stage) -> None:
    smbd = Smbd(stage, {"share": stage.directory("share")}, users=[ROOT])
    port, pid = smbd.port, smbd.pid
    smbd.restart()
    assert smbd.port == port
    assert smbd.pid != pid
    assert "blocks" in smbd.client("share", "ls")
    smbd.kill()
    smbd.start()
    assert "blocks" in smbd.client("share", "ls")


def test_it_takes_another_port_when_somebody_was_faster(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((smbd_module.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        ports = iter([port, port, smbd_module._free_port()])
        monkeypatch.setattr(smbd_module, "_free_port", lambda: next(ports))
        smbd = Smbd(stage, {"share": stage.directory("share")}, users=[ROOT])
        assert smbd.port != port
        assert "blocks" in smbd.client("share", "ls")


def test_a_crash_of_a_process_fails_the_test(stage: Stage) -> None:
    smbd = Smbd(stage, {"share": stage.directory("share")}, users=[ROOT])
    smbd.check_log()
    with open(smbd.directory / "log", "a") as log:
        log.write("INTERNAL ERROR: Signal 11\n")
    with pytest.raises(AssertionError, match="smbd crashed"):
        smbd.check_log()


def test_a_setting_that_samba_refuses_is_told(stage: Stage) -> None:
    with pytest.raises(AssertionError, match="nonsense"):
        Smbd(stage, {"share": stage.directory("share")}, {"server role": "nonsense"}, users=[ROOT])


KILLED = """
import os, signal
from tests.support import process
process.set_environment(os.environ["SCRATCH"])
from tests.support.stage import Stage
from tests.samba.smbd import Smbd
stage = Stage()
smbd = Smbd(stage, {"share": stage.directory("share")})
smbd.client("share", "ls")
print(smbd.pid, smbd._process.pid, stage.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_a_test_run_that_is_killed(stage: Stage) -> None:
    environment = {**os.environ, "SCRATCH": str(stage.directory("scratch")), "TMPDIR": str(stage.path)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -9, done.stderr
    pid, parent, directory = done.stdout.split()
    for orphan in (parent, pid):
        wait_exit(int(orphan))
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        assert directory not in entry.read_text(errors="replace")
