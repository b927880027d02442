"""The demo's story: one tree, seen by the host, bindfs, pyfuse3's example and fusemap."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tree
from look import Sight

HERE: Final = Path(__file__).resolve().parent
SECONDS: Final = 60.0
LOOP: Final = "loop"


@dataclass(frozen=True)
class Findings:
    """What one view of the tree gives; numbers of files, where nothing else is said."""

    sharing: int  # with the same number as another file or directory
    listed: int  # entries whose number in the listing is not their own
    wrong: int  # that read as another file
    lost: int  # not there, or not readable
    extra: int  # paths that should not be there
    loops: int  # directories that find takes for a file system loop
    linked: int  # paths that find -samefile gives for a file with two names
    alive: bool  # the server, at the end


def tell(directory: Path, python: Path, example: Path, files: int) -> int:
    """Runs it all in `directory`, an empty one; `python` has fusemap, `example` is pyfuse3's. 0 if fusemap is right."""
    os.chdir(directory)  # short paths read better
    os.environ["LC_ALL"] = "C"  # find's words are looked at
    _heading("A tree of several file systems, as the host has it")
    tree.build(directory, files)
    root, target = Path("tree"), Path("mnt")
    target.mkdir()
    host = _look(root, 1 << 20)
    _show_file_systems(root, host)
    twice = _show_collisions(root, host)
    link = _a_hard_link(root, host)
    views: dict[str, Findings] = {}

    _heading("fusemap: one device, every file its own number")
    fusemap = [str(python), "-m", "fusemap"]
    _command("fusemap", "mount", root, target)
    with _mounted([*fusemap, "mount", str(root), str(target)], target, waits=True) as alive:
        sight = _look(target, 1 << 20)
        views["fusemap"] = _judge(root, target, host, sight, link, alive)
        print(f"{len(sight['files'])} files and {len(sight['directories'])} directories; the same ones as above:")
        _show(fusemap, "id", *(target / path for path in twice))
        print("  (number, device, inode there, path) And back, by the number of a file with two names:")
        _show(fusemap, "where", target, str(sight["files"][link][0]))
        _show_same_file(target, link)
    for mode in ("qemu", "prefix", "raw"):
        # Without the table that the first mount left in the tree: it is for the default mapping.
        words = ["mount", "--map", mode, "--state", "none", str(root), str(target)]
        with _mounted([*fusemap, *words], target, waits=True):
            sharing = _sharing(root, _look(target, 1 << 20))
            print(f"with --map {mode}: {sharing} files share a number")

    _heading("bindfs")
    _command("bindfs", root, target)
    with _mounted(["bindfs", str(root), str(target)], target, waits=True) as alive:
        views["bindfs"] = _judge(root, target, host, _look(target, 1 << 20), link, alive)
        for line in _find(target)[:3]:
            print(f"  {line}")
        _show_same_file(target, link)

    name = "pyfuse3's example"
    _heading(f"{name}: {example.name}")
    _command("python3", example.name, root, target)
    with _mounted([str(python), str(example), str(root), str(target)], target, waits=False) as alive:
        limit = 4 * (len(host["files"]) + len(host["directories"]))
        sight = _look(target, limit)
        views[name] = _judge(root, target, host, sight, link, alive)
        for error in sight["errors"][:3]:
            print(f"  {error}")
        if os.lstat(root / "tmp").st_ino == 1:
            print("  (tmp, the root of a tmpfs, has inode 1, which is FUSE's number for the root of the mount)")
        _show_wrong(host, sight)
    part = Path("home")
    _command("python3", example.name, root / part, target)
    with _mounted([str(python), str(example), str(root / part), str(target)], target, waits=False):
        _show_wrong(_look(root / part, limit), _look(target, limit))

    _heading("Side by side")
    everything = len(host["files"]) + len(host["directories"])
    raw = Findings(_sharing(root, host), _listed(host), 0, 0, 0, 0, 0, True)
    _table(views, raw, everything)
    right = Findings(0, 0, 0, 0, 0, 0, 2, True)
    print()
    if views["fusemap"] == right:
        print("fusemap: no number twice, listings and stat agree, every file is itself, hard links are hard links.")
        return 0
    print("fusemap did not keep its promises here.")
    return 1


# Looking --------------------------------------------------------------------------------------------------------------


def _look(root: Path, limit: int) -> Sight:
    """What look.py sees; nothing where no answer came in time."""
    command = [sys.executable, str(HERE / "look.py"), str(root), str(limit)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        return {"files": {}, "directories": {}, "errors": [f"no answer: {type(error).__name__}"]}
    sight: Sight = json.loads(done.stdout)
    return sight


def _identity(root: Path, path: str) -> tuple[int, int]:
    """Which file of the host it is, whatever a mount says of it."""
    found = os.lstat(root / path)
    return found.st_dev, found.st_ino


def _by_number(root: Path, sight: Sight) -> dict[int, dict[tuple[int, int], str]]:
    """Number -> the files and directories that show it, each by one of its paths."""
    found: dict[int, dict[tuple[int, int], str]] = defaultdict(dict)
    numbers = {path: seen[0] for path, seen in sight["files"].items()}
    numbers |= {path: seen[0] for path, seen in sight["directories"].items()}
    for path, number in numbers.items():
        with contextlib.suppress(OSError):
            found[number].setdefault(_identity(root, path), path)
    return found


def _sharing(root: Path, sight: Sight) -> int:
    return sum(len(files) for files in _by_number(root, sight).values() if len(files) > 1)


def _listed(sight: Sight) -> int:
    entries = (*sight["files"].values(), *sight["directories"].values())
    return sum(number != listed for number, listed, *_ in entries)


def _read_wrongly(host: Sight, sight: Sight) -> list[str]:
    return [
        path for path, seen in sight["files"].items() if path in host["files"] and seen[2] != host["files"][path][2]
    ]


def _find(root: Path) -> list[str]:
    """What find complains of in a walk of the tree."""
    done = subprocess.run(["find", str(root)], capture_output=True, text=True, timeout=SECONDS, check=False)
    return done.stderr.splitlines()


def _same_file(root: Path, path: str) -> list[str]:
    """The names of one file, as find has them."""
    command = ["find", str(root), "-samefile", str(root / path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    return done.stdout.splitlines()


def _judge(root: Path, target: Path, host: Sight, sight: Sight, link: str, alive: Callable[[], bool]) -> Findings:
    loops = linked = 0
    with contextlib.suppress(subprocess.TimeoutExpired):
        loops = sum(LOOP in line for line in _find(target))
        linked = len(_same_file(target, link))
    known = host["files"].keys() | host["directories"].keys()
    seen = sight["files"].keys() | sight["directories"].keys()
    return Findings(
        _sharing(root, sight),
        _listed(sight),
        len(_read_wrongly(host, sight)),
        len(known - seen),
        len(seen - known),
        loops,
        linked,
        alive(),
    )


# Mounting -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _mounted(command: list[str], target: Path, waits: bool) -> Iterator[Callable[[], bool]]:
    """Mounts on `target`; `waits`: the command returns when that is done. Yields whether the server still answers."""
    server = None
    if waits:
        subprocess.run(command, check=True, timeout=SECONDS)
    else:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        while f" {target.resolve()} " not in Path("/proc/self/mountinfo").read_text():
            if server.poll() is not None or time.monotonic() > end:
                raise OSError(f"{' '.join(command)} did not mount")
            time.sleep(0.05)
    try:
        yield lambda: _answers(target) and (server is None or server.poll() is None)
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)
        if server is not None:
            server.kill()
            server.wait()


def _answers(target: Path) -> bool:
    try:
        return bool(os.listdir(target))
    except OSError:
        return False


# Showing --------------------------------------------------------------------------------------------------------------


def _heading(text: str) -> None:
    print(f"\n=== {text}\n", flush=True)


def _command(*words: str | Path) -> None:
    print(f"$ {' '.join(str(word) for word in words)}", flush=True)


def _show(program: list[str], *words: str | Path) -> None:
    texts = [str(word) for word in words]
    _command("fusemap", *texts)
    done = subprocess.run([*program, *texts], capture_output=True, text=True, timeout=SECONDS, check=True)
    for line in done.stdout.splitlines():
        print(f"  {line}")


def _show_same_file(target: Path, path: str) -> None:
    _command("find", target, "-samefile", target / path)
    for line in _same_file(target, path):
        print(f"  {line}")


def _show_wrong(host: Sight, sight: Sight) -> None:
    """Tells which files read as others, and what directories list that is not theirs."""
    wrong = _read_wrongly(host, sight)
    extra = sorted(sight["files"].keys() - host["files"].keys())
    print(f"  {len(host['files'])} names; {len(wrong)} read as another file, {len(extra)} are in the wrong directory")
    for path in wrong[:2]:
        print(f"  {path} reads as {sight['files'][path][2] or 'an empty file'}")
    for path in extra[:2]:
        print(f"  {path} is listed; it reads as {sight['files'][path][2] or 'an empty file'}")


def _show_file_systems(root: Path, host: Sight) -> None:
    points = {".": "overlay, xino=on", "data": "ext4", "srv": "xfs", "home": "btrfs", "tmp": "tmpfs"}
    points |= dict.fromkeys(tree.SUBVOLUMES, "btrfs subvolume")
    print(f"  {'':12}{'':18}{'files':>6}   inode numbers")
    for point, kind in points.items():
        device = os.lstat(root / point).st_dev
        inodes = sorted({_identity(root, path)[1] for path in host["files"] if _identity(root, path)[0] == device})
        numbers = f"{inodes[0]} to {inodes[-1]}" if inodes else f"{os.lstat(root / point).st_ino} is its root"
        print(f"  {point:12}{kind:18}{len(inodes):6}   {numbers}")


def _show_collisions(root: Path, host: Sight) -> list[str]:
    """Tells how many files share a number; returns the paths of those with the number that is shared most."""
    shared = {number: files for number, files in _by_number(root, host).items() if len(files) > 1}
    paths = {number: [path for path in files.values() if path in host["files"]] for number, files in shared.items()}
    number = max(paths, key=lambda number: (len(paths[number]), -number))
    files = len({_identity(root, path) for path in host["files"]})
    directories = len(host["directories"])
    print(f"\nShown as one device with the host's numbers, {_sharing(root, host)} of {files} files and {directories}")
    print(f"directories would have the number of another. All of these are {number}:")
    for path in paths[number]:
        print(f"  {path}")
    return paths[number]


def _a_hard_link(root: Path, host: Sight) -> str:
    """A file of the ext4 with two names whose number strangers have too, as long as there is one."""
    others = [seen[0] for path, seen in host["files"].items() if path.startswith(("usr/", "srv/"))]
    linked = [path for path in host["files"] if path.startswith("data/") and os.lstat(root / path).st_nlink == 2]
    return max(linked, key=lambda path: others.count(host["files"][path][0]))


def _table(views: dict[str, Findings], raw: Findings, everything: int) -> None:
    rows: list[tuple[str, str, Callable[[Findings], object]]] = [
        ("files and directories that share a number", str(raw.sharing), lambda found: found.sharing),
        ("listings that show another number than stat", str(raw.listed), lambda found: found.listed),
        ("files that read as another", "0", lambda found: found.wrong),
        (f"of {everything} names, lost or not readable", "0", lambda found: found.lost),
        ("names that should not be there", "0", lambda found: found.extra),
        ("loops that find reports", "0", lambda found: found.loops),
        ("names that find gives for a file with two", "2", lambda found: found.linked),
        ("still answers", "", lambda found: "yes" if found.alive else "no"),
    ]
    columns = ["bindfs", "pyfuse3's example", "fusemap"]
    print(f"{'':44}{'host':>6}{columns[0]:>9}{columns[1]:>20}{columns[2]:>10}")
    for title, of_host, of in rows:
        told = title.startswith(("of ", "still "))  # also of who shows nothing, so that nothing else is to be said
        values = [str(of(views[name])) if told or views[name].lost < everything else "-" for name in columns]
        print(f"{title:44}{of_host:>6}{values[0]:>9}{values[1]:>20}{values[2]:>10}")
