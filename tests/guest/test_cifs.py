"""Linux's cifs client, in a guest, on Samba shares of the host: the numbers that it shows, and what it makes of them.

By its option serverino, the default, st_ino is the id that Samba tells. The shares are a tree of several file systems,
as a fusemap mount and as it is, and a single disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from ..conftest import TEST_SECONDS
from ..samba.smbd import Share, Smbd
from ..support import needs
from ..support.house import PARTS, build_parts
from ..support.process import ROOT
from ..support.stage import Stage, watchdog
from .conftest import populate
from .machine import HOST
from .toolbox import OWN, Toolbox

LOW = (1 << 32) - 1
# What the client has of a listing is not the whole: for a second all files have one link. And it asks for a lease by
# each of a file's names, which Samba refuses to all but the first, so that the file cannot be opened by the others.
CAREFUL = "actimeo=0,nolease"
COPIES = {
    "cp": "cp -a {0} {1}",
    "tar": "mkdir {1}; tar -C {0} -cf - . | tar -C {1} -xpf -",
    "rsync": "rsync -aH {0}/ {1}",
}
MADE = """
mkdir -p {0}/d/e
for n in 1 2 3; do seq $n 9000 | head -c ${{n}}0001 > {0}/d/file$n; done
ln {0}/d/file1 {0}/d/e/hard
ln {0}/d/file1 {0}/hard
"""
# No modes: unless told to keep them in ACLs, the client shows 0755 for all files. No times: what is written late sets
# them. And how many files the three names of one are.
TOLD = """
set -e
cd {0}
find . -type f | sort | xargs sha256sum
stat -c %i hard d/file1 d/e/hard | sort -u | wc -l
"""
Connect = Callable[[str], str]


class Shares:
    """An smbd with the shares "tree" and "exact" (the mount), "plain" (the same files without it) and "disk"."""

    def __init__(self, stage: Stage) -> None:
        needs.tools("smbd", "rsync")
        self.source, self.disk = stage.ext4("source"), stage.ext4("disk")
        build_parts(stage, self.source)
        for part in ("", *PARTS):
            populate(self.source / part)
        self.mounted = stage.fusemap(self.source)
        exact = Share(self.mounted.path, settings={"follow symlinks": "no"})
        shares = {"tree": self.mounted.path, "plain": self.source, "exact": exact, "disk": self.disk}
        self.smbd = Smbd(stage, shares, users=[ROOT])


@pytest.fixture(scope="module")
def shares(place: Stage) -> Shares:
    """The shares, for all tests here."""
    with watchdog.limit(TEST_SECONDS):
        return Shares(place)


@pytest.fixture
def connect(box: Toolbox, shares: Shares) -> Iterator[Connect]:
    """A function that mounts a share in the guest; the path there."""
    made: list[str] = []

    def mount(share: str) -> str:
        at = f"{OWN}/{share}"
        who = f"user={ROOT.name},pass={shares.smbd.password}"
        options = f"ip={HOST},port={shares.smbd.port},vers=3.1.1,{who},{CAREFUL}"
        box.guest.sh(f"mkdir -p {box.outside(at)} && mount -t cifs -o {options} //{HOST}/{share} {box.outside(at)}")
        made.append(at)
        return at

    box.guest.load("cifs")
    yield mount
    for at in made:
        box.unmount(at)
    shares.mounted.check_log()
    shares.smbd.check_log()


def trusted(box: Toolbox, at: str) -> bool:
    """Whether the client goes by the server's numbers (still)."""
    lines = [line.split() for line in box.guest.sh("cat /proc/mounts").splitlines()]
    (options,) = [words[3] for words in lines if words[1].endswith(at)]
    return "serverino" in options.split(",")


def test_st_ino_is_that_of_the_mount(box: Toolbox, shares: Shares, connect: Connect) -> None:
    at = connect("tree")
    seen = box.scan(at)
    assert set(seen) == {"", *(str(path.relative_to(shares.source)) for path in shares.source.rglob("*"))}
    # Samba shows a symbolic link as the file that it leads to
    numbers = {path: os.stat(shares.mounted.path / path).st_ino for path in seen}
    assert {path: row["ino"] for path, row in seen.items()} == numbers
    assert {path: row["d_ino"] for path, row in seen.items()} == numbers
    identities = {path: os.stat(shares.source / path) for path in seen}
    assert len(set(numbers.values())) == len({(st.st_dev, st.st_ino) for st in identities.values()})
    assert trusted(box, at)


def test_a_plain_share_shows_devices_of_the_day_and_one_number_twice(
    box: Toolbox, shares: Shares, connect: Connect
) -> None:
    seen = box.scan(connect("plain"))
    root = os.stat(shares.source).st_dev
    for path, row in seen.items():
        st = os.stat(shares.source / path)
        if st.st_dev == root:
            assert row["ino"] == st.st_ino
        else:
            assert (row["ino"] >> 32, row["ino"] & LOW) == (st.st_dev, st.st_ino & LOW)
    one, two = (seen[f"overlay/from-{layer}"]["ino"] for layer in (0, 1))
    assert one == two


@pytest.mark.parametrize("tool", ["rsync", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("cp", "tar"))])
def test_copies(box: Toolbox, shares: Shares, connect: Connect, tool: str) -> None:
    """To a share, within it and back, as on a single disk."""
    own = f"{OWN}/tmp/{tool}"
    box.guest.sh(MADE.format(box.outside(own)))
    made = box.guest.sh(TOLD.format(box.outside(own)))
    assert made.endswith("\n1\n")
    for share, parts in (("disk", ("", "")), ("tree", ("xfs/", "subvol-a/"))):
        at = connect(share)
        one, two = (f"{at}/{part}{tool}-{n}" for n, part in enumerate(parts))
        back = f"{own}-{share}"
        box.sh("\n".join(COPIES[tool].format(*pair) for pair in ((own, one), (one, two), (two, back))))
        for copy in (one, two, back):
            assert box.guest.sh(TOLD.format(box.outside(copy))) == made, copy
        assert trusted(box, at)


@pytest.mark.parametrize("share", ["disk", "tree", "exact"])
def test_a_link_to_a_directory_shows_it_twice(box: Toolbox, shares: Shares, connect: Connect, share: str) -> None:
    """So to the client there are two directories with one number, and it trusts no number any more, on any share.

    Unless Samba does not follow symbolic links, as examples/samba/README.md has it.
    """
    at = connect(share)
    top = shares.disk if share == "disk" else shares.source
    link = top / "up"
    os.symlink(".", link)
    try:
        assert trusted(box, at)
        box.guest.attempt(f"ls {box.outside(at)}/up/")
        assert trusted(box, at) == (share == "exact")
    finally:
        link.unlink()
