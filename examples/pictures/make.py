#!/usr/bin/env python3
"""Makes the pictures of the README again: `sudo python3 examples/pictures/make.py`

They show what `fusemap scan` says of the demo's tree (examples/demo/tree.py), in parts: how ways of giving numbers
compare (schemes.svg), the devices (devices.svg), where and which files collide (collisions.svg), and the picture that
`fusemap scan --png` draws (map.png). A real tree is built and a real scan is made on a terminal of 80 columns; rich
draws what was on the terminal. With an argument the pictures go into that directory and not beside this file.

Needs root (it mounts) and this Python to have fusemap with its extras: pip install '.[scan,view,png]'. What is mounted
goes with the place that it is mounted in; see examples/demo/private.py.
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

try:
    from rich.console import Console
    from rich.terminal_theme import TerminalTheme
    from rich.text import Text
except ImportError as error:
    raise SystemExit(f"make.py: {error}; in the checkout: {sys.executable} -m pip install '.[scan,view,png]'") from None

HERE: Final = Path(__file__).resolve().parent
CHECKOUT: Final = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "demo"))

import private  # noqa: E402
import tree  # noqa: E402

FILES: Final = 100
WIDTH: Final = 80
# What each picture shows: the parts of the report in whose headings this is.
PARTS: Final = {
    "schemes.svg": ("tree", "Ways of giving", "In short"),
    "devices.svg": ("Devices", "Budget of"),
    "collisions.svg": ("Where files", "shared by directories", "shared by files"),
}
_THEME: Final = TerminalTheme(
    (22, 25, 29), (222, 226, 230),
    [(22, 25, 29), (255, 107, 107), (105, 219, 124), (255, 212, 59), (116, 192, 252), (229, 153, 247), (102, 217, 232),
     (222, 226, 230)],
)  # fmt: skip
# As rich's own, without the fonts that it would have a browser fetch.
_FORMAT: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size:
{char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-family: system-ui, sans-serif; font-size: 18px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main() -> int:
    """Makes the pictures; the exit status."""
    parser = argparse.ArgumentParser(description="Makes the pictures of the README again, from a real scan.")
    parser.add_argument("directory", nargs="?", type=Path, default=HERE, help="where they go (default: beside this)")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _make(options.inside, options.directory)
        return 0
    if os.geteuid() != 0:
        print(f"make.py: it mounts, so it needs root: sudo {sys.executable} {sys.argv[0]}", file=sys.stderr)
        return 2
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where an ordinary root shell may not look
    work = Path(tempfile.mkdtemp(prefix="fusemap-pictures-"))
    try:
        place = str(options.directory.resolve())
        return private.run([sys.executable, str(HERE / "make.py"), place, "--inside", str(work)])
    finally:
        private.wait_for_loop_devices(work)
        shutil.rmtree(work)


def _make(work: Path, directory: Path) -> None:
    os.chdir(work)
    tree.build(work, FILES)
    parts = _parts(_on_a_terminal("scan", "tree").replace("\r\x1b[K", ""))
    for name, wanted in PARTS.items():
        shown = [part for words in wanted for part in parts if words in Text.from_ansi(part.splitlines()[0]).plain]
        (directory / name).write_text(_picture("\n\n".join(shown), name.removesuffix(".svg")))
    # 1: files collide in the host's own numbers, which is what there is to see.
    done = subprocess.run(_command("scan", "--png", str(directory / "map.png"), "tree"), stdout=subprocess.DEVNULL)
    if done.returncode != 1:
        raise SystemExit(f"fusemap scan --png ended with {done.returncode}; its words are above")


def _command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from fusemap.cli.main import main; raise SystemExit(main())", *words]


def _on_a_terminal(*words: str) -> str:
    """What a command writes on a terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    for name in ("NO_COLOR", "COLUMNS"):
        environment.pop(name, None)
    with subprocess.Popen(_command(*words), stdin=slave, stdout=slave, env=environment):
        os.close(slave)
        text = b""
        while block := _read(master):
            text += block
    os.close(master)
    return text.decode().replace("\r\n", "\n")


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # EIO: nobody writes any more
        return b""


def _parts(text: str) -> list[str]:
    """The report in parts: each begins with a heading, behind an empty line."""
    return [part.strip("\n") for part in ("\n" + text).split("\n\n")[1:]]


def _picture(text: str, name: str) -> str:
    """Text with a terminal's colours as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(text), soft_wrap=True)
    return console.export_svg(title="fusemap scan tree", theme=_THEME, code_format=_FORMAT, unique_id=name)


if __name__ == "__main__":
    sys.exit(main())
