#!/usr/bin/env python3
"""fusemap on a real tree, beside what else there is: `sudo python3 examples/demo/demo.py`

Builds a tree of an overlay, ext4, xfs, btrfs with two subvolumes, and tmpfs, shows how many of its files have the same
inode number, and what bindfs, pyfuse3's own example and fusemap make of that. Needs root (it mounts), a FUSE device and
Python 3.10; on Debian it installs the packages that are missing. fusemap itself is taken from this Python if it is
installed there, otherwise from this checkout into a virtual environment that is removed again.

Everything is mounted in a place of its own that the kernel clears away however the demo ends; see private.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import private
import story

HERE: Final = Path(__file__).resolve().parent
CHECKOUT: Final = HERE.parent.parent
# program -> Debian package
PROGRAMS: Final = {
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "bindfs": "bindfs",
    "fusermount3": "fuse3",
    "find": "findutils",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
# what pip needs to build pyfuse3
BUILD_PACKAGES: Final = ("gcc", "libc6-dev", "pkg-config", "libfuse3-dev", "python3-dev", "python3-venv")
_IMPORTS: Final = "import fusemap.cli.main, crc32c, pyfuse3, trio, xxhash; print(pyfuse3.__version__)"


class Refused(Exception):
    """The demo cannot run here; the message is one sentence that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; 0 when fusemap kept its promises, 1 when not, 2 when it cannot run here, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(description="Shows what fusemap does with a tree of several file systems.")
    parser.add_argument("--files", type=int, default=100, help="files on each file system (default 100)")
    parser.add_argument(
        "--venv", type=Path, metavar="DIR", help="install into DIR, which is kept, and found there again"
    )
    parser.add_argument("--offline", action="store_true", help="install and fetch nothing")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        directory, python, example = map(Path, options.inside)
        try:
            return story.tell(directory, python, example, options.files)
        except subprocess.CalledProcessError as error:
            print(f"demo: {' '.join(map(str, error.cmd))} failed; its words are above", file=sys.stderr)
            return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where an ordinary root shell may not look
    directory = Path(tempfile.mkdtemp(prefix="fusemap-demo-"))
    try:
        return _run(options, directory)
    except Refused as refusal:
        print(f"demo: {refusal}", file=sys.stderr)
        return 2
    except _Stopped as stopped:
        print("\nstopped; cleaning up", flush=True)
        return 128 + stopped.number
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        private.wait_for_loop_devices(directory)
        shutil.rmtree(directory)


class _Stopped(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def _run(options: argparse.Namespace, directory: Path) -> int:
    if os.geteuid() != 0:
        raise Refused(f"it mounts file systems, so it needs root: sudo {sys.executable} {sys.argv[0]}")
    if not os.path.exists("/dev/fuse"):
        raise Refused("/dev/fuse is missing; load the kernel's fuse module: modprobe fuse")
    python = Path(sys.executable)
    version = _pyfuse3_version(python)
    _install_packages(() if version else BUILD_PACKAGES, options.offline)
    if version is None:
        python = _virtual_environment(options.venv or directory / "venv", directory, options.offline)
        version = _pyfuse3_version(python)
        if version is None:
            raise Refused(f"fusemap was installed, but {python} cannot import it; run pip check there")
    example = _passthroughfs(python, version, directory, options.offline)
    words = ["--files", str(options.files), "--inside", str(directory), str(python), str(example)]
    return private.run([sys.executable, str(HERE / "demo.py"), *words])


def _pyfuse3_version(python: Path) -> str | None:
    """pyfuse3's version if `python` can run fusemap, otherwise None."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # only what is installed counts, not the current directory
    done = subprocess.run(
        [python, "-c", _IMPORTS], capture_output=True, text=True, check=False, cwd="/", env=environment
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _install_packages(build: Sequence[str], offline: bool) -> None:
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    apt = shutil.which("apt-get")
    if apt is not None and build:
        missing |= {package for package in build if not _installed(package)}
    if not missing:
        return
    names = sorted(missing)
    if apt is None or offline:
        raise Refused(f"install these first (Debian's names): {' '.join(names)}")
    print(f"installing Debian packages: {' '.join(names)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ([apt, "-qq", "update"], [apt, "-qq", "--yes", "--no-install-recommends", "install", *names]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, check=False)
        if done.returncode:
            sys.stderr.buffer.write(done.stdout)
            raise Refused(f"{' '.join(command)} failed; its words are above")


def _installed(package: str) -> bool:
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "installed"


def _virtual_environment(venv: Path, directory: Path, offline: bool) -> Path:
    """A Python that has this checkout installed. Raises Refused."""
    python = venv / "bin" / "python"
    if python.exists() and _pyfuse3_version(python):
        return python
    if offline:
        raise Refused(f"fusemap is not installed for {sys.executable}: {sys.executable} -m pip install {CHECKOUT}")
    print(f"installing fusemap from {CHECKOUT} into {venv} (pyfuse3 is compiled; about a minute)", flush=True)
    copy = directory / "checkout"  # building leaves files beside the sources
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns(".*", "build", "tests", "examples"))
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--use-pep517", str(copy)]
    for command in ([sys.executable, "-m", "venv", str(venv)], pip):
        if subprocess.run(command, check=False).returncode:
            raise Refused(f"{' '.join(command)} failed; its words are above")
    return python


def _passthroughfs(python: Path, version: str, directory: Path, offline: bool) -> Path:
    """pyfuse3's own example, out of its source distribution; where that is not to be had, ours of the same design."""
    if not offline:
        print(f"fetching pyfuse3 {version}'s source distribution for its example", flush=True)
        words = [*("--quiet", "--disable-pip-version-check", "--no-deps"), *("--no-binary", "pyfuse3")]
        command = [str(python), "-m", "pip", "download", *words, "--dest", str(directory), f"pyfuse3=={version}"]
        subprocess.run(command, check=False, stderr=subprocess.DEVNULL)
        for archive in directory.glob("pyfuse3-*.tar.gz"):
            with tarfile.open(archive) as members:
                for member in members:
                    file = members.extractfile(member) if member.name.endswith("/examples/passthroughfs.py") else None
                    if file is not None:
                        example = directory / "passthroughfs.py"
                        example.write_bytes(file.read())
                        return example
    return HERE / "passthrough.py"


if __name__ == "__main__":
    sys.exit(main())
