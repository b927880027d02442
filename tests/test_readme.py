"""Every command in the README does what it says.

They run as they stand, in a mount namespace whose /srv, /mnt and /opt are empty and private, with `fusemap` on PATH.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import fusemap

from .support import needs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# command -> what runs it instead: it installs packages, or is what is running now
ELSEWHERE = {
    "python3 examples/demo/demo.py": "tests/examples",
    "tests/run": "you, now",
    "apt-get update": "tests/run does so where something is missing",
    "apt-get install gcc pkg-config libfuse3-dev fuse3 python3-dev python3-venv": "tests/run installs the same",
    "python3 -m venv /opt/fusemap": "tests/run does the same",
    "/opt/fusemap/bin/pip install .": "tests/run does the same",
    "ln -s /opt/fusemap/bin/fusemap /usr/local/bin/": "the PATH of this test",
    "python -m tests.benchmarks": "tests/benchmarks has a test of its own",
    "python -m tests.benchmarks.p9": "likewise",
    "python -m tests.benchmarks.startup": "likewise",
    "python -m tests.benchmarks.scan --pairs 10000000": "likewise",
    "python -m tests.benchmarks.samba": "likewise",
    "python -m tests.samba.torture": "tests/samba/test_smbtorture.py",
}
PREPARE = """
set -eu
for place in /srv /mnt /usr/local/bin; do mount -t tmpfs none "$place"; done
ln -s "$FUSEMAP" /usr/local/bin/  # mount(8) looks in the usual places only
mkdir -p /srv/tree/data /mnt/tree
mount -t tmpfs none /srv/tree/data
echo hello > /srv/tree/data/file
cd /srv
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_every_shell_block_runs() -> None:
    needs.fuse()
    needs.tools("unshare", "find")
    script = PREPARE
    for block in blocks("sh"):
        for line in block.splitlines():
            if line not in ELSEWHERE:
                script += f"{line}\n"
    # What is still mounted and running at the end goes with the namespaces.
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-xc", script],
        env={"PATH": path, "LC_ALL": "C.UTF-8", "FUSEMAP": str(Path(sys.executable).parent / "fusemap")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    number, device, inode, name = next(line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 3)
    assert name == "/mnt/tree/data/file"
    assert f"{device}\t{inode}\t{name}" in done.stdout.splitlines()  # what "where" prints
    assert f"{number} {name}" in done.stdout.splitlines()  # what find prints
    assert "0 wrong" in done.stdout


def test_the_python_example() -> None:
    (block,) = blocks("python")
    names: dict[str, object] = {}
    results = []
    for line in block.splitlines():
        code, _, comment = line.partition("#")
        try:
            value = eval(code.strip() or "None", names)
        except SyntaxError:
            exec(code, names)
        else:
            if comment.strip()[:1].isdigit() or comment.strip().startswith("("):
                results.append((value, eval(comment.split(";")[0].strip(), {})))
    assert results == [(25, 25), (("home", 12), ("home", 12))]


def test_the_picture() -> None:
    mapper = fusemap.Mapper()
    drawn = [int(number) for number in re.findall(r"(\d+) = [01]+ +suffix", README)]
    assert drawn == [mapper.path(device, 12) for device in ("ext4", "xfs", "alice", "bob")]


def test_what_the_readme_names_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


