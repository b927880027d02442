"""What fusemap mount refuses: exit status 2, one sentence that says what to do, and nothing is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import needs
from ..support.command import Daemons, fusemap, refused
from ..support.process import ALICE, BOB, User, attempt, run
from ..support.stage import FUSEMAP, Stage, detach, mount_points


@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
class TestRefused:
    """Nothing is mounted, and no process is left."""

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, daemons: Daemons, stage: Stage) -> Iterator[None]:
        self.stage = stage
        yield
        mine = [point for point in mount_points() if point.startswith(os.fsencode(stage.path))]
        allowed = {os.fsencode(stage.path / name) for name in ("mnt", "src", "disk", "dev", "src/seen")}
        assert not daemons.pids()
        assert len(mine) == len(set(mine)), "something was mounted over a mount"
        assert set(mine) <= allowed

    def test_a_source_that_is_missing(self, foreground: list[str], target: Path) -> None:
        refused(fusemap("mount", target.parent / "missing", target, *foreground), "missing", "No such file")

    def test_a_source_that_is_a_file(self, foreground: list[str], source: Path, target: Path) -> None:
        refused(fusemap("mount", source / "f", target, *foreground), "is not a directory")

    def test_a_target_that_is_missing(self, foreground: list[str], source: Path, target: Path) -> None:
        refused(fusemap("mount", source, target / "missing", *foreground), "missing", "create it first")

    def test_a_target_that_is_a_file(self, foreground: list[str], source: Path) -> None:
        refused(fusemap("mount", source, source / "f", *foreground), "is not a directory")

    def test_a_source_inside_the_target(self, foreground: list[str], target: Path) -> None:
        (target / "inside" / "deep").mkdir(parents=True)
        refused(fusemap("mount", target / "inside" / "deep", target, *foreground), "inside the mount point")

    def test_a_target_inside_the_source(self, foreground: list[str], source: Path) -> None:
        (source / "inside" / "deep").mkdir(parents=True)
        refused(fusemap("mount", source, source / "inside" / "deep", *foreground), "inside", "outside")

    def test_a_target_inside_the_source_by_a_symlink(self, foreground: list[str], source: Path, stage: Stage) -> None:
        (source / "inside").mkdir()
        os.symlink(source / "inside", stage.path / "link")
        refused(fusemap("mount", source, stage.path / "link", *foreground), "inside")

    def test_a_target_inside_the_source_by_a_bind_mount(
        self, foreground: list[str], source: Path, stage: Stage
    ) -> None:
        (source / "seen").mkdir()
        (stage.directory("disk") / "target").mkdir()
        stage.bind(stage.path / "disk", source / "seen")
        refused(fusemap("mount", source, stage.path / "disk" / "target", *foreground), "inside")

    def test_the_target_is_the_source(self, foreground: list[str], source: Path) -> None:
        refused(fusemap("mount", source, source, *foreground), "on itself")
        refused(fusemap("mount", source, f"{source}/../src", *foreground), "on itself")

    def test_a_target_in_use(self, foreground: list[str], source: Path, stage: Stage, target: Path) -> None:
        stage.tmpfs("mnt")
        refused(fusemap("mount", source, target, *foreground), "in use")

    def test_a_target_in_use_by_ourselves(
        self, foreground: list[str], source: Path, stage: Stage, target: Path
    ) -> None:
        mounted = stage.fusemap(source)
        refused(fusemap("mount", source, target, *foreground), "in use")
        assert (mounted / "f").read_text() == "f"
        assert mounted.unmount() == 0

    def test_no_fuse_device(self, foreground: list[str], source: Path, target: Path, stage: Stage) -> None:
        run("mount", "--bind", os.devnull, "/dev/fuse")
        try:
            refused(fusemap("mount", source, target, *foreground))
        finally:
            run("umount", "/dev/fuse")
        hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && shift 0 && exec "$@"', "-"]
        refused(attempt(*hidden, *FUSEMAP, "mount", source, target, *foreground), "/dev/fuse", "modprobe fuse")

    def test_root_without_the_right_to_mount(self, foreground: list[str], source: Path, target: Path) -> None:
        bare = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
        refused(attempt(*bare, *FUSEMAP, "mount", source, target, *foreground), "cannot mount")

    def test_an_ordinary_user_without_fusermount3(self, foreground: list[str], source: Path, target: Path) -> None:
        os.chown(target, ALICE.uid, ALICE.gid)
        done = fusemap("mount", source, target, *foreground, user=ALICE, env={"PATH": "/nonexistent"})
        refused(done, "fusermount3", "install")

    def test_an_ordinary_user_and_anothers_directory(
        self, foreground: list[str], source: Path, target: Path, stage: Stage
    ) -> None:
        needs.tools("fusermount3")
        stage.admit(ALICE)
        os.chown(target, BOB.uid, BOB.gid)
        refused(fusemap("mount", source, target, *foreground, user=ALICE))

    def test_an_ordinary_user_and_a_source_he_may_not_read(
        self, foreground: list[str], source: Path, target: Path, stage: Stage
    ) -> None:
        needs.tools("fusermount3")
        stage.admit(ALICE)
        source.chmod(0o700)
        os.chown(target, ALICE.uid, ALICE.gid)
        refused(fusemap("mount", source, target, *foreground, user=ALICE), "Permission denied")

    def test_an_ordinary_user_and_allow_other(
        self, foreground: list[str], source: Path, target: Path, stage: Stage
    ) -> None:
        needs.tools("fusermount3")
        if os.path.exists("/etc/fuse.conf") and "\nuser_allow_other" in Path("/etc/fuse.conf").read_text():
            pytest.skip("this machine lets users share their mounts")
        stage.admit(ALICE)
        os.chown(target, ALICE.uid, ALICE.gid)
        refused(fusemap("mount", source, target, *foreground, "-o", "allow_other", user=ALICE), "user_allow_other")

    @pytest.mark.parametrize(
        "option", ["map=wrong", "nonsense", "cache=often", "k=9", "k=x", "map", "map=suffix,map=x"]
    )
    def test_unknown_options(self, foreground: list[str], source: Path, target: Path, option: str) -> None:
        refused(fusemap("mount", source, target, *foreground, "-o", option))

    def test_a_log_that_cannot_be_written(self, foreground: list[str], source: Path, target: Path) -> None:
        refused(fusemap("mount", source, target, *foreground, "--log", source / "missing" / "log"), "log")


@pytest.mark.parametrize("user", [None, ALICE], ids=["root", "alice"])
@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
def test_a_refused_mount_leaves_no_table_behind(
    stage: Stage, source: Path, target: Path, user: User | None, foreground: list[str]
) -> None:
    run("mount", "--bind", os.devnull, "/dev/fuse")
    stage.after(detach, Path("/dev/fuse"))
    refused(fusemap("mount", source, target, *foreground, user=user, env={"PATH": "/nonexistent"}))
    assert os.listxattr(source) == []
    assert os.listdir(stage.state) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["mount"],
        ["mount", "a"],
        ["mount", "a", "b", "c"],
        ["nonsense"],
        ["mount", "a", "b", "--map", "x"],
        ["mount", "a", "b", "-k", "9"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = fusemap(*arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_tells_every_option() -> None:
    done = fusemap("mount", "--help")
    assert done.returncode == 0
    for word in (
        "SRC",
        "MNT",
        "--map",
        "suffix",
        "prefix",
        "qemu",
        "raw",
        "-k",
        "--cache",
        "--read-only",
        "-o",
        "-f",
        "--log",
    ):
        assert word in done.stdout
    assert "mount" in fusemap("--help").stdout
    assert fusemap("--version").stdout.startswith("fusemap ")
