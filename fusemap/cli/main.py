"""fusemap's command line: finds the verb and turns refusals into one sentence and exit status 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fusemap import __version__
from fusemap.cli import check, id, mount, scan, serve, table, top, view, where
from fusemap.errors import FusemapError

_VERBS = (mount, serve, scan, id, where, check, table, top, view)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="fusemap",
        description="Shows a tree that spans several file systems as one device; every file has its own number.",
        epilog="fusemap VERB --help tells more of each.",
    )
    top.add_argument("--version", action="version", version=f"fusemap {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in _VERBS:
        verb.add(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0].startswith("/"):
        # mount.fuse(8) calls the program of "mount -t fuse.fusemap SRC MNT -o ..." with no verb.
        words.insert(0, "mount")
    options = parser().parse_args(words)
    try:
        return int(options.run(options))
    except FusemapError as error:
        print(f"fusemap: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader went away; nothing more to say at exit
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
