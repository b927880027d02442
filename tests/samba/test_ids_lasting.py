"""The ids of today are those of yesterday: after a restart of smbd and fusemap, and with the disks mounted anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..p9.served import Served
from ..support.command import Result, fusemap
from ..support.process import ROOT, run
from ..support.stage import Stage
from .smbd import Smbd

NAMES = ("ext4", "xfs", "a", "b", "tmpfs")
FILES = 5


class Disks:
    """Images of ext4, xfs and btrfs with two subvolumes; below the tree they are mounted in any order."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.tree = stage.path / "tree"
        self._root = stage.image("ext4")
        self._ext4, self._xfs, self._btrfs = (stage.image(kind) for kind in ("ext4", "xfs", "btrfs"))
        top = stage.mount(self._btrfs, "top", "-o", "loop")
        for name in ("a", "b"):
            run("btrfs", "subvolume", "create", top / name)
        run("umount", top)

    def mount(self, order: tuple[str, ...]) -> dict[str, int]:
        """Mounts everything; the device numbers."""
        stage = self._stage
        stage.mount(self._root, self.tree, "-o", "loop")
        for name in order:
            at = self.tree / name
            if name == "tmpfs":
                stage.tmpfs(at)
            elif name in ("a", "b"):
                stage.mount(self._btrfs, at, "-o", f"loop,subvol={name}")
            else:
                stage.mount({"ext4": self._ext4, "xfs": self._xfs}[name], at, "-o", "loop")
        for name in NAMES:
            for number in range(FILES):
                (self.tree / name / f"file{number}").touch()
        return {name: os.stat(self.tree / name).st_dev for name in NAMES}

    def unmount(self, order: tuple[str, ...]) -> None:
        """Unmounts everything."""
        for name in order:
            run("umount", self.tree / name)
        run("umount", self.tree)


def test_ids_last_on_a_mount_and_change_on_a_plain_share(stage: Stage) -> None:
    disks = Disks(stage)
    before = disks.mount(NAMES)
    name = ("--name", f"{disks.tree}/tmpfs=scratch")
    mounted = stage.fusemap(disks.tree, *name)
    smbd = Smbd(stage, {"tree": mounted.path, "plain": disks.tree}, users=[ROOT])
    kept, lost = stage.path / "kept.json", stage.path / "lost.json"

    def check(share: str, *arguments: str | Path) -> Result:
        env = {"FUSEMAP_SMB_PASSWORD": smbd.password}
        return fusemap("check", "--smb", smbd.unc(share), "--user", "root", *arguments, env=env)

    assert check("tree", mounted.path, "--save", kept).returncode == 0
    assert check("plain", "--save", lost).returncode == 0
    assert check("plain", "--against", lost).returncode == 0

    smbd.stop()
    assert mounted.unmount() == 0
    disks.unmount(NAMES)
    stage.tmpfs("another")  # takes a device number
    order = ("tmpfs", "b", "xfs", "a", "ext4")
    after = disks.mount(order)
    changed = [name for name in NAMES if before[name] != after[name]]
    assert changed, "the host dealt out the same device numbers"
    mounted = stage.fusemap(disks.tree, *name)
    smbd.start()

    with Served(disks.tree, stage.path, *name, listen=f"unix:{stage.path}/9p") as served:
        done = check("tree", mounted.path, "--9p", served.address, "--against", kept, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["wrong"], found["new"], found["gone"]) == ([], 0, 0)
    numbers = {row["path"]: row["opened"] for row in found["rows"]}
    assert numbers == json.loads(kept.read_bytes())["numbers"]
    assert len(set(numbers.values())) == len(numbers)

    # A mount's numbers can be held against those of the share, and the other way round.
    assert fusemap("check", mounted.path, "--against", kept).returncode == 0

    done = check("plain", "--against", lost, "--json")
    assert done.returncode == 1
    wrong = [each for each in json.loads(done.stdout)["wrong"] if each["kind"] == "changed"]
    told = {path.partition("/")[0] for each in wrong for path in each["paths"]}
    assert told == set(changed)
    assert f"{len(wrong)} changed, 0 new, 0 gone" in check("plain", "--against", lost).stdout
