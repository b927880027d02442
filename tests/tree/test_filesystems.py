"""Devices and mounts beneath a root: which are one, which are two, and which come back."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

import pytest

from fusemap.qid import Mapper
from fusemap.table import open_table
from fusemap.tree import Tree

from ..support import needs
from ..support.house import PARTS, build_parts
from ..support.process import attempt, run
from ..support.stage import Stage
from ..support.trees import opened, walk


def test_every_part_of_a_tree_is_a_device_of_its_own(stage: Stage) -> None:
    source = stage.ext4("src")
    build_parts(stage, source)
    with opened(source) as tree:
        nodes = [walk(tree, part) for part in ("", *PARTS)]
        assert len({node.device.key for node in nodes}) == len(nodes)
        assert len({node.mount.id for node in nodes}) == len(nodes)
        assert {node.device.identity.lasting for node in nodes[:5]} == {True}
        assert not walk(tree, "tmpfs").device.identity.lasting


def test_a_subvolume_is_a_device_without_being_a_mount(stage: Stage) -> None:
    source = stage.disk("btrfs", "src")
    run("btrfs", "subvolume", "create", source / "sub")
    (source / "sub" / "f").write_text("f")
    run("btrfs", "subvolume", "snapshot", source / "sub", source / "snapshot")
    with opened(source) as tree:
        root, sub, snapshot = tree.root, walk(tree, "sub"), walk(tree, "snapshot")
        assert root.inode == sub.inode == snapshot.inode == 256
        assert len({node.number for node in (root, sub, snapshot)}) == 3
        one, two = walk(tree, "sub/f"), walk(tree, "snapshot/f")
        assert one.inode == two.inode
        assert one.number != two.number
        assert one.device is sub.device


def test_a_new_subvolume_with_the_st_dev_of_a_deleted_one_is_another_device(stage: Stage) -> None:
    source = stage.disk("btrfs", "src")
    seen: dict[int, set[int]] = {}
    with opened(source) as tree:
        for n in range(6):
            run("btrfs", "subvolume", "create", source / f"sub{n}")
            (source / f"sub{n}" / "f").write_text(str(n))
            number = walk(tree, f"sub{n}/f").number
            device = os.stat(source / f"sub{n}").st_dev
            assert number not in seen.get(device, ())
            seen.setdefault(device, set()).add(number)
            tree.rest()
            run("btrfs", "subvolume", "delete", "-c", source / f"sub{n}")
            run("btrfs", "subvolume", "sync", source)


def test_a_copy_of_a_disk_is_another_device(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """dd and LVM snapshots make two file systems with one uuid; their files must not share numbers."""
    image = stage.image("ext4")
    at = stage.mount(image, "prepare", "-o", "loop")
    (at / "f").write_text("original")
    run("umount", at)
    copy = stage.path / "copy.img"
    run("cp", "--sparse=always", image, copy)
    source = stage.directory("src")
    stage.mount(image, "src/a", "-o", "loop")
    stage.mount(copy, "src/b", "-o", "loop")
    (source / "b" / "f").write_text("copy")
    with caplog.at_level(logging.WARNING), opened(source) as tree:
        one, two = walk(tree, "a/f"), walk(tree, "b/f")
        assert one.inode == two.inode
        assert one.number != two.number
        assert one.device.key != two.device.key
    assert "copy" in caplog.text


def copies(stage: Stage, kind: str = "ext4") -> tuple[Path, Path]:
    """An image of a file system with a file, of a btrfs with a subvolume too, and a copy of it."""
    image = stage.image(kind)
    at = stage.mount(image, "prepare", "-o", "loop")
    (at / "f").write_text("f")
    if kind == "btrfs":
        run("btrfs", "subvolume", "create", at / "sub")
    run("umount", at)
    copy = stage.path / "copy.img"
    run("cp", "--sparse=always", image, copy)
    if kind == "btrfs":
        stage.mount(image, "prepare", "-o", "loop")
        try:
            run("umount", stage.mount(copy, "probe", "-o", "loop"))
        except AssertionError:
            needs.missing("this kernel does not mount a copy of a btrfs beside its original")
        finally:
            run("umount", at)
    return image, copy


def numbers_of_copies(
    stage: Stage, images: tuple[Path, Path], order: str, walked: str, *named: str
) -> tuple[dict[str, int], set[str]]:
    """The numbers of a/f and b/f, and the devices that last, with both mounted in this order and walked in that one."""
    source = stage.directory("src")
    for name in order:
        stage.mount(images["ab".index(name)], f"src/{name}", "-o", "loop")
    table = open_table(source, directory=str(stage.state))
    names = {str(source / name): f"copy-{name}" for name in named}
    with contextlib.closing(table), contextlib.closing(Tree(source, table.mapper(), names)) as tree:
        nodes = {name: walk(tree, f"{name}/f") for name in walked}
        found = {name: node.number for name, node in nodes.items()}
        lasting = {name for name, node in nodes.items() if node.device.identity.lasting}
    for name in order:
        run("umount", source / name)
    return found, lasting


@pytest.mark.parametrize(("kind", "named"), [("ext4", "ab"), ("ext4", "b"), ("btrfs", "b")])
def test_named_copies_keep_their_numbers_in_every_order(
    stage: Stage, kind: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    images = copies(stage, kind)
    first, lasting = numbers_of_copies(stage, images, "ab", "ab", *named)
    assert first["a"] != first["b"]
    assert lasting == {"a", "b"}
    for order in ("ab", "ba"):
        for walked in ("ab", "ba"):
            assert numbers_of_copies(stage, images, order, walked, *named) == (first, lasting)
    assert numbers_of_copies(stage, images, "b", "b", *named) == ({"b": first["b"]}, {"b"})
    assert "--name" not in caplog.text


def test_a_name_for_what_is_not_mounted_names_nothing_else(stage: Stage) -> None:
    source = stage.ext4("src")
    (source / "scratch").mkdir()
    names = {str(source / "scratch"): "scratch"}
    with contextlib.closing(Tree(source, Mapper(), names)) as tree, contextlib.closing(Tree(source, Mapper())) as plain:
        assert tree.root.device.key == plain.root.device.key
        scratch = stage.tmpfs(source / "scratch")
        assert walk(tree, "scratch").device.key == "name:scratch"
        tree.rest()
        run("umount", scratch)
    with contextlib.closing(Tree(source, Mapper(), {str(source): "main"})) as tree:
        assert tree.root.device.key == f"{plain.root.device.key}#main"


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_copies_without_names_are_promised_nothing_and_never_swapped(
    stage: Stage, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    images = copies(stage, kind)
    seen: dict[str, set[int]] = {"a": set(), "b": set()}
    for order, walked in (("ab", "ab"), ("ba", "ba"), ("ab", "ba"), ("ba", "ab")):
        caplog.clear()
        found, lasting = numbers_of_copies(stage, images, order, walked)
        assert lasting == set()
        for name in "ab":
            seen[name].add(found[name])
            assert f"--name {stage.path}/src/{name}=NAME" in caplog.text
    assert not seen["a"] & seen["b"]


@pytest.mark.parametrize("named", ["", "b"])
def test_subvolumes_of_a_copy_are_never_swapped_with_those_of_its_original(stage: Stage, named: str) -> None:
    images = copies(stage, "btrfs")
    source = stage.directory("src")
    for name, image in zip("ab", images, strict=True):
        stage.mount(image, f"src/{name}", "-o", "loop")
    names = {str(source / name): f"copy-{name}" for name in named}
    keys = []
    for walked in ("ab", "ba"):
        with contextlib.closing(Tree(source, Mapper(), names)) as tree:
            devices = {name: walk(tree, f"{name}/sub").device for name in walked}
            assert not any(device.identity.lasting for device in devices.values())
            keys.append({name: device.key for name, device in devices.items()})
    assert keys[0]["a"] != keys[0]["b"]
    named_all = {str(source / name / "sub"): f"sub-{name}" for name in "ab"}
    for walked in ("ab", "ba"):
        with contextlib.closing(Tree(source, Mapper(), named_all)) as tree:
            devices = {name: walk(tree, f"{name}/sub").device for name in walked}
            assert all(device.key.endswith(f"#sub-{name}") for name, device in devices.items())


def test_what_was_there_before_its_copy_stays_what_it_was(stage: Stage) -> None:
    image, copy = copies(stage)
    source = stage.directory("src")
    stage.mount(image, "src/a", "-o", "loop")
    with opened(source) as tree:
        before = walk(tree, "a/f")
        at = stage.mount(copy, "src/b", "-o", "loop")
        new = walk(tree, "b/f")
        assert new.number != before.number
        assert not new.device.identity.lasting
        assert walk(tree, "a/f") is before
        bound = stage.bind(at, "src/c")
        assert walk(tree, "c/f") is new
        tree.rest()
        run("umount", source / "a")
        assert walk(tree, "c/f") is new
        assert walk(tree, "b/f") is new
        tree.rest()
        assert os.path.ismount(bound)


def test_the_root_goes_by_its_uuid_whatever_is_mounted_below(stage: Stage) -> None:
    image, copy = copies(stage)
    source = stage.mount(image, "src", "-o", "loop")
    (source / "copy").mkdir()
    stage.mount(copy, source / "copy", "-o", "loop")
    with opened(source) as tree:
        assert tree.root.device.identity.lasting
        assert not walk(tree, "copy/f").device.identity.lasting


@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "ramfs", "overlay"])
def test_processes_that_walk_differently_agree(stage: Stage, kind: str) -> None:
    """Also on a file system that is known for this session only, first met through another bind mount of it."""
    if kind == "overlay":
        disk = stage.overlay("disk")
    else:
        disk = stage.ext4("disk") if kind == "ext4" else stage.mount(kind, "disk", "-t", kind)
    (disk / "d" / "e").mkdir(parents=True)
    (disk / "d" / "f").write_text("f")
    source = stage.directory("src")
    for at, part in (("z", "."), ("b", "d"), ("a", "d/e"), ("c", ".")):
        stage.bind(disk / part, f"src/{at}")
    paths = ("z", "z/d", "z/d/e", "z/d/f", "b", "b/e", "b/f", "a", "c", "c/d", "c/d/e", "c/d/f")
    found = []
    for first in ("a", "b", "c", "z"):
        table = open_table(source, directory=str(stage.state))
        with contextlib.closing(table), contextlib.closing(Tree(source, table.mapper())) as tree:
            walk(tree, first)
            found.append(numbers(tree, *paths))
    assert found[1:] == found[:1] * 3
    by_path = dict(zip(paths, found[0], strict=True))
    assert len(set(found[0])) == len(paths) - 2  # three directories, each in several places, and one file
    assert by_path["z/d/f"] == by_path["b/f"] == by_path["c/d/f"]


def test_a_disk_that_comes_back_has_its_old_numbers(stage: Stage) -> None:
    source = stage.ext4("src")
    (source / "disk").mkdir()
    image = stage.image("ext4")
    at = stage.mount(image, source / "disk", "-o", "loop")
    (at / "f").write_text("f")
    with opened(source) as tree:
        before = walk(tree, "disk/f").number
        tree.rest()
        run("umount", at)
        filler = stage.ext4("filler")  # takes the st_dev that is free now
        stage.mount(image, source / "disk", "-o", "loop")
        assert walk(tree, "disk/f").number == before
        assert os.path.ismount(filler)


def test_another_disk_at_the_same_place_has_new_numbers(stage: Stage) -> None:
    source = stage.ext4("src")
    with opened(source) as tree:
        seen = set()
        for n in range(3):
            at = stage.tmpfs("src/disk")
            (at / "f").write_text(str(n))
            node = walk(tree, "disk/f")
            assert node.number not in seen
            seen.add(node.number)
            tree.rest()
            run("umount", at)


def test_an_unmounted_disks_nodes_are_stale_and_its_directory_is_uncovered(stage: Stage) -> None:
    source = stage.ext4("src")
    (source / "disk").mkdir()
    (source / "disk" / "covered").write_text("x")
    at = stage.ext4("src/disk")
    (at / "f").write_text("f")
    with opened(source) as tree:
        node = walk(tree, "disk/f")
        tree.rest()
        run("umount", at)
        with pytest.raises(OSError, match="Stale"):
            tree.stat(node)
        assert walk(tree, "disk/covered").device is tree.root.device


def numbers(tree: Tree, *paths: str) -> list[int]:
    return [walk(tree, path).number for path in paths]


@pytest.mark.parametrize("first", ["a", "b"])
def test_overlapping_bind_mounts_share_files_and_not_directories(stage: Stage, first: str) -> None:
    disk = stage.ext4("disk")
    (disk / "top" / "sub").mkdir(parents=True)
    (disk / "top" / "sub" / "f").write_text("f")
    source = stage.directory("src")
    stage.bind(disk / "top", "src/a")
    stage.bind(disk / "top" / "sub", "src/b")
    with opened(source) as tree:
        walk(tree, first)
        directories = numbers(tree, "a", "a/sub", "b")
        assert len(set(directories)) == 3
        assert walk(tree, "a/sub/f") is walk(tree, "b/f")


def test_where_one_of_two_is_read_only_writing_through_the_other_works(stage: Stage) -> None:
    disk = stage.ext4("disk")
    (disk / "f").write_text("f")
    source = stage.directory("src")
    stage.bind(disk, "src/rw")
    run("mount", "-o", "remount,bind,ro", stage.bind(disk, "src/ro"))
    with opened(source) as tree:
        for first, second in (("ro/f", "rw/f"), ("rw/f", "ro/f")):
            walk(tree, first)
            nodes = {path: walk(tree, path) for path in (first, second)}
            walk(tree, first)  # whichever was looked up last
            tree.rest()
            os.close(tree.open(nodes["rw/f"], os.O_WRONLY))
            with pytest.raises(OSError) as failed:
                os.close(tree.open(nodes["ro/f"], os.O_WRONLY))
            assert failed.value.errno == errno.EROFS


def test_mounts_come_and_go_without_a_trace(stage: Stage) -> None:
    source = stage.ext4("src")
    (source / "disk").mkdir()
    with opened(source) as tree:
        for _ in range(5):
            at = stage.tmpfs("src/disk")
            (at / "f").touch()
            node = walk(tree, "disk/f")
            tree.forget(node)
            tree.rest()
            assert attempt("umount", at).returncode == 0
            with pytest.raises(OSError):
                tree.stat(node)
        assert len(tree.filesystems.mounts()) <= 2


def test_a_file_in_the_tree_is_never_reached_through_a_symlink(stage: Stage) -> None:
    source = stage.directory("src")
    (source / "d").mkdir()
    outside = stage.directory("outside")
    (outside / "f").write_text("outside")
    (source / "d" / "f").write_text("inside")
    with opened(source) as tree:
        node = walk(tree, "d")
        os.rename(source / "d", source / "old")
        os.symlink(outside, source / "d")
        tree.rest()
        link, st = tree.lookup(tree.root, b"d")
        assert st.mode & 0o170000 == 0o120000
        assert tree.lookup(node, b"f")[1].ino == os.stat(source / "old" / "f").st_ino
        with pytest.raises(NotADirectoryError):
            tree.lookup(link, b"f")
        assert Path(os.fsdecode(tree.source)) == source
