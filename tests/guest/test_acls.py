"""POSIX ACLs in a guest: what a script says that makes, inherits and tries them is what it says on the host's disk.

With posixacl and access=client the guest's kernel checks them and hands them down to new files. Otherwise it looks at
the mode alone, so that nothing that an ACL grants beyond it is had; what an ACL denies, the host does. And it has
applied the umask before it sends a mode, which a directory's default ACL cannot replace then. (Mounted with
access=client and without posixacl, which is what one gets without either option, it does not even show ACLs.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import TEST_SECONDS
from ..p9.served import Served
from ..support import needs
from ..support.process import run
from ..support.stage import Stage, watchdog
from .toolbox import Toolbox

CHECKED_BY = {
    "guest": ({"access": "client", "posixacl": "", "cache": "none"}, 0o022),
    "guest-loose": ({"access": "client", "posixacl": "", "cache": "loose"}, 0o077),
    "host": ({"access": "user", "cache": "none"}, 0),
}
SCRIPT = """
exec 2>&1
as() { user=$1; shift; setpriv --reuid="$user" --regid="$user" --clear-groups sh -c "$*" && echo yes || echo no; }
chmod 755 .
echo content > f
chmod 640 f
setfacl -m u:61001:r,g:62000:rw f
getfacl -cn f; stat -c %A f
as 61001 cat f
as 61001 'echo more >> f'
as 61002 cat f
echo open > denied
setfacl -m u:61002:- denied
chmod o+r denied
as 61002 cat denied
chmod 600 f
getfacl -cn f
as 61001 cat f
setfacl -m m::rw f
as 61001 cat f
mkdir d
setfacl -m d:u:61001:rwx,d:g::r-x,d:o::--- d
touch d/file
mkdir d/below
mkfifo d/fifo
ln -s file d/link
(umask 027; touch d/masked)
getfacl -Rcn d
as 61001 touch d/new
setfacl -m u:61001:rwx d
as 61001 touch d/new
as 61002 ls d
getfacl -cn d/file
cp -a f copied
mv copied d/moved
getfacl -cn d/moved
setfacl -d -m u:61001:r f || echo refused
as 61001 setfacl -m u:61002:rw f
setfacl -x u:61001 f
getfacl -cn f
setfacl -b -k f d
getfacl -Rcn .
getfattr -Rd -m - .
"""


@pytest.fixture(scope="module")
def export(place: Stage) -> Path:
    """An ext4."""
    needs.tools("setfacl", "getfattr", "setpriv")
    return place.ext4("export")


@pytest.fixture(scope="module")
def server(place: Stage, export: Path) -> Iterator[Served]:
    """`fusemap serve` of it."""
    with watchdog.limit(TEST_SECONDS):
        served = Served(export, place.path)
    with served:
        yield served


@pytest.mark.parametrize("checked_by", CHECKED_BY)
def test_acls(box: Toolbox, server: Served, export: Path, checked_by: str) -> None:
    options, umask = CHECKED_BY[checked_by]
    ours, theirs = export / checked_by, export / f"{checked_by}-twin"
    for path in ours, theirs:
        path.mkdir()
    granted = options.get("access") == "client" and "posixacl" in options
    script = SCRIPT if granted else re.sub(r"^(as 61001 (cat|touch|'echo)|.umask).*\n", "", SCRIPT, flags=re.MULTILINE)
    said = run("/bin/sh", "-euc", script, cwd=theirs, umask=umask).stdout
    assert "no\n" in said
    at = box.mount(server.address, "share", **options)
    try:
        assert box.sh(f"umask {umask:o}; cd {at}/{checked_by}; {script}") == said
    finally:
        box.unmount(at)
    everything = "getfacl -Rnp .; find . -printf '%P %M %U %G\\n' | sort"
    assert run("sh", "-c", everything, cwd=ours).stdout == run("sh", "-c", everything, cwd=theirs).stdout
    server.check_log()
