"""Which file system it is: on real ones, across mounts, for root and for an ordinary user."""

from __future__ import annotations

import os
import re
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from fusemap.errors import Refused
from fusemap.host import identity
from fusemap.host.calls import Calls, Stat
from fusemap.host.identity import Identity, boot_id, identify, named, session_only
from fusemap.host.mountinfo import mount_table

from ..support import needs
from ..support.process import User, attempt, call_as, run
from ..support.stage import Stage

NOBODY = 65534


def ask(path: Path, name: str | None = None, by_uuid: str | None = None) -> Identity:
    """The identity of a directory's file system. Without `by_uuid` udev is left out: tests must not depend on it."""
    calls = Calls()
    fd = os.open(path, os.O_RDONLY)
    try:
        mount = calls.mount_id(fd)
        kind = next((info.kind for info in mount_table() if info.id == mount), "")
        return identify(fd, calls.statx(fd, b""), kind, name, by_uuid)
    finally:
        os.close(fd)


def a_stat(path: str = "/") -> Stat:
    return Calls().statx(-100, path.encode())


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes ioctls fail as on a kernel that lacks them."""

    def take(*requests: int) -> None:
        real = identity._ioctl
        monkeypatch.setattr(
            identity, "_ioctl", lambda fd, number, data: None if number in requests else real(fd, number, data)
        )

    return take


UUID = "5f7a4a2c-6f0b-4d0e-9c3f-0123456789ab"


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_file_system_is_known_by_its_uuid_wherever_it_is_mounted(stage: Stage, kind: str) -> None:
    image = stage.image(kind, 0, *(("-U", UUID) if kind == "ext4" else ("-m", f"uuid={UUID}")))
    one = ask(stage.mount(image, "one", "-o", "loop"))
    assert one == (f"uuid:{UUID}", True)
    run("umount", stage.path / "one")
    other = stage.ext4("other")  # takes the loop device, or the st_dev, that was free
    assert ask(other) != one
    assert ask(stage.mount(image, "two", "-o", "loop")) == one
    bound = stage.directory("two/below")
    assert ask(stage.bind(bound, "bound")) == one


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_older_ioctls_give_the_same_key(stage: Stage, kind: str, without: Callable[..., None]) -> None:
    path = stage.disk(kind, "disk")
    key = ask(path)
    assert key.lasting
    without(identity._FS_IOC_GETFSUUID)
    assert ask(path) == key


def test_without_any_ioctl_ext4_is_known_by_its_fsid_and_xfs_is_not(stage: Stage, without: Callable[..., None]) -> None:
    ext4, xfs = stage.image("ext4"), stage.image("xfs")
    without(identity._FS_IOC_GETFSUUID, identity._EXT4_IOC_GETFSUUID, identity._XFS_IOC_FSGEOMETRY_V1)
    key = ask(stage.mount(ext4, "ext4", "-o", "loop"))
    assert re.fullmatch(r"fsid:ext:[0-9a-f]{16}", key.key)
    assert key.lasting
    assert not ask(stage.mount(xfs, "xfs", "-o", "loop")).lasting
    run("umount", stage.path / "ext4")
    assert ask(stage.mount(ext4, "again", "-o", "loop")) == key


def test_the_links_of_udev_are_the_next_rung(stage: Stage, without: Callable[..., None]) -> None:
    path = stage.disk("xfs", "disk")
    device = os.stat(path).st_dev
    links = stage.directory("by-uuid")
    node = stage.path / "node"
    os.mknod(node, stat.S_IFBLK | 0o600, device)
    os.mknod(stage.path / "other", stat.S_IFBLK | 0o600, os.makedev(7, 250))
    without(identity._FS_IOC_GETFSUUID, identity._XFS_IOC_FSGEOMETRY_V1)
    assert not ask(path, by_uuid=str(links)).lasting
    (links / "1234-ABCD").symlink_to(stage.path / "other")
    (links / "dangling").symlink_to(stage.path / "nowhere")
    assert not ask(path, by_uuid=str(links)).lasting
    (links / UUID).symlink_to(node)
    assert ask(path, by_uuid=str(links)) == (f"uuid:{UUID}", True)
    (links / UUID).rename(links / "0000-0000")
    assert not ask(path, by_uuid=str(links)).lasting


@pytest.mark.parametrize("kind", ["ext4"])
def test_a_null_uuid_is_no_identity(stage: Stage, kind: str) -> None:
    path = stage.disk(kind, "disk", 0, "-U", "00000000-0000-0000-0000-000000000000")
    key = ask(path)
    assert not key.lasting
    assert key.key.startswith(f"session:{boot_id()}:")
    assert ask(path, "archive") == ("name:archive", True)


def test_btrfs_subvolumes_and_snapshots_are_devices_of_their_own(stage: Stage) -> None:
    needs.tools("btrfs")
    image = stage.image("btrfs")
    top = stage.mount(image, "top", "-o", "loop")
    for name in ("a", "b"):
        run("btrfs", "subvolume", "create", top / name)
    (top / "a" / "file").write_text("x")
    run("btrfs", "subvolume", "snapshot", top / "a", top / "snap")
    keys = {name: ask(top / name) for name in (".", "a", "b", "snap")}
    assert len(set(keys.values())) == 4
    assert all(key.lasting and key.key.startswith("btrfs:") for key in keys.values())
    assert len({key.key.split(":")[1] for key in keys.values()}) == 1
    stats = {name: os.stat(top / name).st_dev for name in keys}
    run("umount", top)
    # The other way round, so that the host deals the same st_dev out the other way round.
    for name in ("snap", "b", "a"):
        stage.mount(image, f"sub/{name}", "-o", f"loop,subvol={name}")
    again = {name: ask(stage.path / "sub" / name) for name in ("a", "b", "snap")}
    assert again == {name: keys[name] for name in again}
    assert {name: os.stat(stage.path / "sub" / name).st_dev for name in again} != {name: stats[name] for name in again}


def test_a_copy_of_a_btrfs_is_known_by_what_both_have_on_disk(stage: Stage) -> None:
    """Beside its original it has an fsid that the kernel made up, and another one at every mount (Linux 6.7)."""
    image = stage.image("btrfs")
    copy = stage.path / "copy.img"
    run("cp", "--sparse=always", image, copy)
    alone = ask(stage.mount(copy, "copy", "-o", "loop"))
    run("umount", stage.path / "copy")
    original = ask(stage.mount(image, "original", "-o", "loop"))
    if attempt("mount", "-o", "loop", copy, stage.path / "copy").returncode:
        needs.missing("this kernel does not mount a copy of a btrfs beside its original")
    assert ask(stage.path / "copy") == alone == original
    run("umount", stage.path / "copy")


def test_btrfs_without_its_ioctls_is_known_by_its_fsid(stage: Stage, without: Callable[..., None]) -> None:
    top = stage.disk("btrfs", "top")
    run("btrfs", "subvolume", "create", top / "a")
    without(identity._BTRFS_IOC_GET_SUBVOL_INFO)
    keys = {ask(top), ask(top / "a")}
    assert len(keys) == 2
    assert all(key.lasting and key.key.startswith("fsid:btrfs:") for key in keys)


def test_a_tmpfs_is_known_for_a_session_by_everybody(stage: Stage) -> None:
    path = stage.tmpfs("one")
    key = ask(path)
    assert not key.lasting
    assert key.key.startswith(f"session:{boot_id()}:")
    bound = stage.bind(path, "bound")
    assert ask(bound) == key
    run("umount", bound)
    run("umount", path)
    assert ask(stage.tmpfs("one")) != key
    assert ask(stage.path / "one", "scratch") == ("name:scratch", True)


def test_without_the_ioctl_a_tmpfs_is_still_told_from_the_next(stage: Stage, without: Callable[..., None]) -> None:
    without(identity._FS_IOC_GETFSUUID)
    keys = [ask(stage.tmpfs(name)) for name in ("one", "two")]
    assert keys[0] != keys[1]
    assert not any(key.lasting for key in keys)
    assert all(key.key.count(":") == 2 for key in keys)  # by its random f_fsid, not by its mount


def test_sysfs_makes_its_uuid_up() -> None:
    assert not ask(Path("/sys")).lasting
    assert not ask(Path("/proc")).lasting


def test_an_overlay_keeps_its_uuid_or_has_none(stage: Stage) -> None:
    overlay = stage.overlay("merged")
    key = ask(overlay)
    options = next(info for info in mount_table() if info.point == os.fsencode(overlay))
    if key.lasting:
        with open("/proc/self/mountinfo") as table:
            line = next(line for line in table if line.split()[4] == str(overlay))
        words = line.rpartition(" ")[2].strip()
        run("umount", overlay)
        run("mount", "-t", "overlay", options.source, overlay, "-o", words.removeprefix("rw,"))
        assert ask(overlay) == key
    else:
        assert key.key.startswith("session:")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_an_ordinary_user_sees_the_same(stage: Stage, kind: str) -> None:
    path = stage.tmpfs("disk") if kind == "tmpfs" else stage.disk(kind, "disk")
    path.chmod(0o755)
    assert call_as(User(NOBODY, NOBODY), lambda: tuple(ask(path))) == tuple(ask(path))


def test_a_copy_has_the_key_of_its_original(stage: Stage) -> None:
    """Telling the two apart is the tree's affair: only it knows that both are mounted."""
    image = stage.image("ext4")
    copy = stage.path / "copy.ext4"
    copy.write_bytes(image.read_bytes())
    assert ask(stage.mount(image, "one", "-o", "loop")) == ask(stage.mount(copy, "two", "-o", "loop"))


def test_a_session_only_key_is_shared_where_mount_ids_are_unique() -> None:
    st = a_stat()
    unique = st._replace(mask=st.mask | 0x4000, mnt_id=77, dev_major=8, dev_minor=1)
    assert session_only(unique) == (f"session:{boot_id()}:77:8:1", False)
    old = session_only(unique._replace(mask=st.mask & ~0x4000))
    assert old != session_only(unique)
    assert old == session_only(unique._replace(mask=st.mask & ~0x4000))
    assert old.key.split(":")[1] == boot_id()


def test_the_boot_id_is_the_kernels() -> None:
    assert str(uuid.UUID(boot_id())) == boot_id()


@pytest.mark.parametrize("name", ["backup", "a", "Disk-2.old_x+y", "x" * 63])
def test_names(name: str) -> None:
    assert named(name) == (f"name:{name}", True)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a#2", "ä", ".x", "x" * 64, "a\n", "a:b"])
def test_names_that_would_be_mistaken_for_something_else(name: str) -> None:
    with pytest.raises(Refused, match="letters, digits"):
        named(name)


def test_the_layout_of_statfs() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    try:
        assert identity._statfs(fd) == (0x9FA0, os.fstatvfs(fd).f_fsid)
    finally:
        os.close(fd)
