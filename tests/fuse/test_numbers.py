"""Every file its own number, and the same number wherever it is asked for."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from pathlib import Path

import pytest

from fusemap.host.calls import Calls

from ..support.house import PARTS, House, Pair
from ..support.process import Child, attempt, run
from ..support.stage import Stage

Found = dict[str, tuple[int, int]]


def listed(top: Path) -> Found:
    """Every entry below `top`, "." and ".." included: d_ino from the listing and st_ino from a stat."""
    calls, found = Calls(), {}
    todo = [top]
    while todo:
        directory = todo.pop()
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            while block := calls.getdents(fd):
                for entry in block:
                    path = directory / os.fsdecode(entry.name)
                    st = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
                    found[f"{directory}/{os.fsdecode(entry.name)}"] = (entry.ino, st.st_ino)
                    if stat.S_ISDIR(st.st_mode) and entry.name not in (b".", b".."):
                        todo.append(path)
        finally:
            os.close(fd)
    return found


def fill(top: Path, directories: int = 3, files: int = 20) -> None:
    """The same names, and on a fresh file system the same inode numbers, everywhere."""
    for d in range(directories):
        (top / f"d{d}").mkdir()
        for f in range(files):
            (top / f"d{d}" / f"f{f}").write_text(f"{top.name} {d} {f}")
    os.symlink("d0/f0", top / "symlink")
    os.mkfifo(top / "fifo")
    os.link(top / "d0/f1", top / "d1/hard")


@pytest.mark.parametrize("mode", ["suffix", "prefix"])
@pytest.mark.parametrize("cache", ["auto", "none"])
def test_every_file_of_a_tree_of_devices_has_its_own_number(stage: Stage, mode: str, cache: str) -> None:
    house = House(stage, "--map", mode, "--cache", cache)
    for part in ("", *PARTS):
        fill(house.source / part)
    names: dict[int, set[tuple[int, int]]] = defaultdict(set)
    root = house.mounted.path
    host_numbers = set()
    for path, _, files in os.walk(house.source):
        for name in [".", *files]:
            host = os.lstat(Path(path, name))
            host_numbers.add(host.st_ino)
            shown = os.lstat(root / Path(path, name).relative_to(house.source))
            assert shown.st_dev == os.stat(root).st_dev
            names[shown.st_ino].add((host.st_dev, host.st_ino))
    assert all(len(files) == 1 for files in names.values())
    assert len({next(iter(files)) for files in names.values()}) == len(names), "one file has two numbers"
    assert len(host_numbers) < len(names), "the test tree has no collisions to resolve"
    assert not {0, 1, 2**64 - 1, 2**64 - 2} & set(names)


def test_a_listing_gives_the_number_that_stat_gives(house: House) -> None:
    for part in ("", *PARTS):
        top = house.pair("listing", part).host
        fill(top)
    found = listed(house.mounted.path)
    root = str(house.mounted.path)
    # What is above the mount is the affair of the file system that it is mounted on, except that a listing
    # cannot say so: there ".." of a root is the root, as on a disk.
    d_ino, _ = found.pop(f"{root}/..")
    assert d_ino == os.stat(root).st_ino
    assert {path: pair for path, pair in found.items() if pair[0] != pair[1]} == {}
    assert any(path.endswith("/xfs/..") for path in found)


def by_name_only(top: Path) -> dict[str, int]:
    """As `listed`, without a look at the files: only kinds and numbers as the listing gives them."""
    calls, found = Calls(), {}
    todo = [top]
    while todo:
        directory = todo.pop()
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            while block := calls.getdents(fd):
                for entry in block:
                    if entry.name not in (b".", b".."):
                        path = directory / os.fsdecode(entry.name)
                        found[str(path)] = entry.ino
                        if entry.kind == stat.S_IFDIR >> 12:
                            todo.append(path)
        finally:
            os.close(fd)
    return found


def test_a_process_that_only_lists_gets_the_same_numbers(house: House) -> None:
    """Processes of both habits, in either order, also where a subvolume stands in a directory without being mounted."""
    tops = []
    for part in ("", *PARTS):
        tops.append(house.pair("names", part))
        fill(tops[-1].host)
    subvolume = house.pair("nested", "subvol-a")
    for name in ("one", "two"):
        run("btrfs", "subvolume", "create", subvolume.host / name)
        (subvolume.host / name / "f").write_text(name)
    run("btrfs", "subvolume", "snapshot", subvolume.host / "one", subvolume.host / "snapshot")
    for path in [top.seen for top in (*tops, subvolume)] + [house.mounted.path]:
        first = Child(lambda path=path: by_name_only(path)).result()  # type: ignore[misc]
        looked = Child(lambda path=path: listed(path)).result()  # type: ignore[misc]
        second = Child(lambda path=path: by_name_only(path)).result()  # type: ignore[misc]
        assert first == second == {name: looked[name][1] for name in first}


def test_a_mount_point_is_listed_with_the_number_of_what_is_mounted(house: House) -> None:
    with os.scandir(house.mounted.path) as entries:
        numbers = {entry.name: entry.inode() for entry in entries}
    for part in PARTS:
        assert numbers[part] == os.stat(house.mounted / part).st_ino
    assert len({numbers[part] for part in PARTS}) == len(PARTS)


def test_find_and_du_see_one_device_without_loops(house: House) -> None:
    for part in ("", *PARTS):
        top = house.pair("loops", part).host
        fill(top)
    shown = run("find", house.mounted.path, "-xdev", "-printf", "%P\n").stdout.splitlines()
    host = run("find", house.source, "-printf", "%P\n").stdout.splitlines()
    assert sorted(shown) == sorted(host)
    assert run("du", "-sx", house.mounted.path).stderr == ""


def test_hard_links_have_one_number(house: House) -> None:
    for part in ("", *PARTS):
        pair = house.pair("links", part)
        (pair.seen / "a").write_text("one")
        os.mkdir(pair.seen / "d")
        os.link(pair.seen / "a", pair.seen / "d" / "b")
        os.link(pair.host / "a", pair.host / "c")
        stats = [os.stat(pair.seen / name) for name in ("c", "a", "d/b")]
        assert len({st.st_ino for st in stats}) == 1, part
        assert {st.st_nlink for st in stats} == {3}, part


def test_numbers_do_not_change_when_the_kernel_forgets(house: House, pair: Pair) -> None:
    fill(pair.host)
    before = listed(pair.seen)
    run("sync")
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert listed(pair.seen) == before


def test_bind_mounts_that_do_not_overlap_share_their_hard_links(stage: Stage) -> None:
    disk = stage.ext4("disk")
    for name in ("left", "right"):
        (disk / name / "deep").mkdir(parents=True)
    (disk / "left" / "deep" / "f").write_text("shared")
    os.link(disk / "left" / "deep" / "f", disk / "right" / "deep" / "g")
    source = stage.directory("src")
    stage.bind(disk / "left", "src/a")
    stage.bind(disk / "right", "src/b")
    mounted = stage.fusemap(source)
    one, two = os.stat(mounted / "a/deep/f"), os.stat(mounted / "b/deep/g")
    assert (one.st_ino, one.st_nlink) == (two.st_ino, 2)
    assert os.stat(mounted / "a").st_ino != os.stat(mounted / "b").st_ino
    (mounted / "a/deep/f").write_text("written in one")
    assert (mounted / "b/deep/g").read_text() == "written in one"
    assert run("du", "-s", "--inodes", mounted.path).stdout.split()[0] == "6"


@pytest.fixture(params=["ext4", "tmpfs", "xfs", "btrfs"])
def overlapping(request: pytest.FixtureRequest, stage: Stage) -> tuple[Path, Path]:
    """A source in which one directory is to be seen three times, two of them one below the other; and its mount."""
    kind = request.param
    disk = stage.tmpfs("disk") if kind == "tmpfs" else stage.disk(kind, "disk")
    (disk / "top" / "sub" / "deep").mkdir(parents=True)
    (disk / "top" / "sub" / "deep" / "f").write_text("here")
    os.link(disk / "top" / "sub" / "deep" / "f", disk / "top" / "g")
    source = stage.directory("src")
    stage.bind(disk / "top", "src/a")
    stage.bind(disk / "top" / "sub", "src/b")
    stage.bind(disk, "src/c")
    return source, stage.fusemap(source).path


def test_overlapping_bind_mounts_can_be_walked_in_any_order(overlapping: tuple[Path, Path]) -> None:
    _, mnt = overlapping
    for order in ("a", "b", "c"), ("c", "b", "a"):
        for name in order:
            done = attempt("find", mnt / name, "-xdev")
            assert (done.returncode, done.stderr) == (0, "")
    done = attempt("find", mnt, "-printf", "%i %y\n")
    assert (done.returncode, done.stderr) == (0, "")
    directories = [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" d")]
    assert len(directories) == len(set(directories)), "a directory in two places makes kernels and tools see loops"
    assert attempt("du", "-s", mnt).stderr == ""
    for path in ("a/sub/deep", "b/deep", "c/top/sub/deep"):
        fd = os.open(mnt / path, os.O_RDONLY)
        try:
            assert os.listdir(fd) == ["f"]
            assert os.readlink(f"/proc/self/fd/{fd}") == str(mnt / path)
        finally:
            os.close(fd)
    assert {pair for pair in listed(mnt).values() if pair[0] != pair[1]} <= {listed(mnt)[f"{mnt}/.."]}


def test_a_file_seen_through_overlapping_bind_mounts_is_one_file(overlapping: tuple[Path, Path]) -> None:
    _, mnt = overlapping
    paths = [mnt / name for name in ("a/sub/deep/f", "b/deep/f", "c/top/sub/deep/f", "a/g", "c/top/g")]
    for path in paths:
        path.write_text(f"written as {path}")
        assert {other.read_text() for other in paths} == {f"written as {path}"}
    assert len({os.stat(path).st_ino for path in paths}) == 1


def test_a_directory_below_two_bind_mounts_can_be_renamed_and_removed(overlapping: tuple[Path, Path]) -> None:
    source, mnt = overlapping
    os.listdir(mnt / "b/deep")
    os.listdir(mnt / "c/top/sub/deep")
    os.rename(mnt / "a/sub/deep", mnt / "a/moved")
    assert (mnt / "a/moved/f").read_text() == "here"
    os.unlink(mnt / "a/moved/f")
    os.rmdir(mnt / "a/moved")
    assert os.listdir(source / "a/sub") == []
    with pytest.raises(FileNotFoundError):
        os.stat(source / "c/top/moved")


def test_the_root_bound_into_itself_is_no_loop(stage: Stage) -> None:
    source = stage.ext4("src")
    (source / "d" / "here").mkdir(parents=True)
    (source / "d" / "f").write_text("f")
    stage.bind(source, "src/d/here")
    mnt = stage.fusemap(source).path
    done = attempt("find", mnt, "-printf", "%P\n")
    assert (done.returncode, done.stderr) == (0, "")
    names = sorted(name for name in done.stdout.splitlines() if not name.endswith("lost+found"))
    assert names == ["", "d", "d/f", "d/here", "d/here/d", "d/here/d/f", "d/here/d/here"]
    assert (mnt / "d/here/d/f").read_text() == "f"
    os.chdir(mnt / "d/here/d")
    try:
        assert os.path.samefile("..", mnt / "d/here")
        assert os.path.samefile("../..", mnt / "d")
    finally:
        os.chdir("/")


def test_a_single_file_bound_over_another(stage: Stage) -> None:
    source = stage.ext4("src")
    (source / "covered").write_text("covered")
    (source / "other").write_text("other")
    disk = stage.ext4("disk")
    (disk / "f").write_text("from the disk")
    run("mount", "--bind", disk / "f", source / "covered")
    stage.after(run, "umount", source / "covered")
    mnt = stage.fusemap(source).path
    assert (mnt / "covered").read_text() == "from the disk"
    assert (mnt / "other").read_text() == "other"
    (mnt / "covered").write_text("through the mount")
    assert (disk / "f").read_text() == "through the mount"
    numbers = [entry.inode() for entry in os.scandir(mnt)]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("mode", ["raw", "qemu"])
def test_the_colliding_modes_collide_in_numbers_only(stage: Stage, mode: str) -> None:
    source = stage.directory("src")
    for name in ("a", "b"):
        fill(stage.tmpfs(source / name))
    mnt = stage.fusemap(source, "--map", mode).path
    for path, _, files in os.walk(source):
        for name in files:
            if (Path(path) / name).is_file():
                assert (mnt / Path(path, name).relative_to(source)).read_text() == Path(path, name).read_text()
    if mode == "raw":
        assert os.stat(mnt / "a/d0/f1").st_ino == os.stat(mnt / "b/d0/f1").st_ino == os.stat(source / "a/d0/f1").st_ino
    for path, (d_ino, st_ino) in listed(mnt / "a").items():
        assert d_ino == st_ino, path


def test_a_number_is_not_given_twice_when_inode_numbers_have_their_top_bits_set(stage: Stage) -> None:
    source = stage.directory("src")
    overlay = stage.overlay("src/overlay", lowers=3)
    other = stage.overlay("src/other", lowers=2)
    for n in range(3):
        (overlay / f"new-{n}").write_text("new")
        (other / f"new-{n}").write_text("new")
    host = [os.stat(path).st_ino for path in overlay.iterdir()]
    assert max(host) >> 48, "this kernel's overlay does not set top bits"
    mnt = stage.fusemap(source).path
    done = run("find", mnt, "-type", "f", "-printf", "%i\n").stdout.split()
    assert len(done) == len(set(done)) == 11
