"""fusemap's command line: finds the verb and turns refusals into one sentence and exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fusemap import __version__
from fusemap.cli import streams
from fusemap.errors import FusemapError


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    # Here, where Ctrl-C is met with no traceback: on a busy machine this takes a while.
    from fusemap.cli import check, id, mount, scan, serve, table, top, view, where

    words = argparse.ArgumentParser(
        prog="fusemap",
        description="Shows a tree that spans several file systems as one device; every file has its own number.",
        epilog="fusemap VERB --help tells more of each.",
    )
    words.add_argument("--version", action="version", version=f"fusemap {__version__}")
    verbs = words.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in (mount, serve, scan, id, where, check, table, top, view):
        verb.add(verbs)
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0].startswith("/"):
        # mount.fuse(8) calls the program of "mount -t fuse.fusemap SRC MNT -o ..." with no verb.
        words.insert(0, "mount")
    streams.complete()
    return streams.finish(_run(words))


def _run(words: Sequence[str]) -> int:
    try:
        options = parser().parse_args(words)
        return int(options.run(options))
    except SystemExit as end:  # argparse has said what there is to say
        return int(end.code or 0)
    except FusemapError as error:
        streams.complain(str(error))
        return 2
    except BrokenPipeError:
        streams.drop()  # the reader went away; nothing more to say at exit
        return 1
    except OSError as error:
        streams.complain(streams.sentence(error))
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
