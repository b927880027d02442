"""fusemap serve: shows a tree as one device to 9P clients."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import re
import signal
from collections.abc import Callable, Sequence
from io import RawIOBase
from typing import TYPE_CHECKING, Any, Final

from fusemap.cli import exported, streams
from fusemap.cli.logs import set_up
from fusemap.errors import Refused

if TYPE_CHECKING:
    from fusemap.p9.listen import Source
    from fusemap.p9.model import Model
    from fusemap.tree import Tree

log = logging.getLogger(__name__)

_MODELS: Final = ("none", "passthrough", "mapped-xattr")
_MIN_MSIZE: Final = 4096  # less is refused by Linux's client (net/9p/client.c)
_MAX_MSIZE: Final = 16 << 20
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20}

DESCRIPTION: Final = """\
Shows the directory SRC, with everything mounted beneath it, to 9P clients as one device on which every file has its own
number (QID path), the same as through fusemap mount and the same tomorrow. Speaks 9P2000.L, 9P2000.u and 9P2000. Stays
in the foreground; prints "listening on ADDRESS" when clients can come. SIGTERM or Ctrl-C ends it, SIGUSR1 logs
statistics.
"""
EPILOG: Final = """\
ADDRESS is one of
  unix:PATH        a socket that only this user can open (mode 0600; chmod it to let others in)
  tcp:HOST:PORT    a name, IPv4 or [IPv6] address, or * for every address; port 0 takes a free one
  vsock:CID:PORT   for virtual machines of this host; CID is mostly any
  fd:R,W           one connection on descriptors that are open already, fd:0,1 or fd:3,3; ends with it
  systemd          the sockets of a systemd socket unit; the default when there are some
9P has no passwords: whoever reaches a tcp or vsock address can act as any user. Keep it to networks you trust.

On this machine:
  fusemap serve /srv/tree --listen unix:/run/tree.sock
  mount -t 9p -o trans=unix,version=9p2000.L,msize=1048576 /run/tree.sock /mnt
From a virtual machine with user networking, whose host is 10.0.2.2 (see also examples/guest):
  fusemap serve /srv/tree --listen tcp:127.0.0.1:5640
  mount -t 9p -o trans=tcp,port=5640,version=9p2000.L,msize=1048576 10.0.2.2 /mnt
Add aname=DIR to mount a directory below SRC only.
"""


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    verb = verbs.add_parser(
        "serve",
        help="show a tree to 9P clients",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("source", metavar="SRC", help="the directory to show")
    verb.add_argument(
        "--listen", metavar="ADDRESS", action="append", default=[], help="where clients come from; may be repeated"
    )
    exported.add_options(verb)
    verb.add_argument(
        "--security",
        choices=_MODELS,
        help="on whose rights requests are done: passthrough the client's user's, checked by this host (default for "
        "root); none the server's own, the client checks (default for others); mapped-xattr the server's own, with "
        "owners and modes kept in attributes. As QEMU's security_model",
    )
    verb.add_argument("--read-only", action="store_true", help="refuse every change")
    verb.add_argument(
        "--msize",
        type=_msize,
        default=1 << 20,
        metavar="N",
        help="the largest message in bytes, with K or M if you like (default 1M, which is Linux's most)",
    )
    verb.add_argument(
        "--peers",
        choices=("any", "self"),
        default="any",
        help="who may come in by a Unix socket: any user as whom he likes (default), or each only as himself (self, "
        "with passthrough); "
        "root and the user of the server always as whom they like",
    )
    verb.add_argument("--trace", metavar="FILE", help="write a line for every message to FILE; - is standard output")
    verb.add_argument("--log", metavar="FILE", help="log to FILE instead of standard error")
    verb.add_argument("-v", "--verbose", action="store_true", help="log more")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves until a signal ends it."""
    from fusemap.p9.listen import close_all, open_all

    # From here on a signal ends the process with everything put away.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    sources: Sequence[Source] = ()
    try:
        exported.settle(options)
        set_up(options.log, options.verbose, foreground=True)
        exported.raise_descriptor_limit()
        _check_source(options.source)
        if options.peers == "self" and options.security not in (None, "passthrough"):
            raise Refused(
                f"--peers self holds users to their own rights, and --security {options.security} gives them the "
                "server's; leave one of them out"
            )
        # Opened first: where that is refused, no table has been begun. Who comes early waits until there is a tree.
        sources = open_all(options.listen)
        _serve(options, sources)
    except KeyboardInterrupt:
        log.info("ended by a signal")
    finally:
        close_all(sources)
    return 0


def _serve(options: argparse.Namespace, sources: Sequence[Source]) -> None:
    from fusemap.p9.export import Export
    from fusemap.p9.server import serve

    with contextlib.ExitStack() as stack:
        trace = None
        if options.trace is not None:
            trace = _tracer(stack.enter_context(_trace_file(options.trace, sources)))
        table = stack.enter_context(contextlib.closing(exported.open_table(options)))
        tree, shown = exported.open_tree(options, table)
        undo = stack.enter_context(contextlib.ExitStack())
        undo.callback(tree.close)
        model = _model(options.security, tree)
        export = Export(
            tree, model, read_only=options.read_only, msize=options.msize, shown=shown, table=table, trace=trace
        )
        undo.pop_all()
        stack.callback(export.close)
        log.info("serving %s, map %s, security %s", options.source, options.map, model.name)
        serve(export, sources, lambda: _announce(sources), as_himself=options.peers == "self")
        log.info("ended")


def _model(name: str | None, tree: Tree) -> Model:
    from fusemap.p9.model import Model, Passthrough

    if name == "mapped-xattr":
        from fusemap.p9.mapped import MappedXattr

        return MappedXattr(tree)
    if name is None:
        name = "passthrough" if tree.identity.can_switch else "none"
    return Passthrough(tree) if name == "passthrough" else Model(tree)


def _announce(sources: Sequence[Source]) -> None:
    for source in sources:
        if _uses_standard_output(sources):
            log.info("listening on %s", source.address)
        else:
            try:
                print(f"listening on {source.address}", flush=True)
            except OSError as error:
                streams.drop()
                if error.errno != errno.EPIPE:  # otherwise whoever started us does not want to know
                    log.warning("cannot print that we listen on %s: %s", source.address, error.strerror)


def _uses_standard_output(sources: Sequence[Source]) -> bool:
    from fusemap.p9.listen import Inherited

    return any(isinstance(source, Inherited) and 1 in (source.reader, source.writer) for source in sources)


def _check_source(source: str) -> None:
    try:
        with os.scandir(source):
            pass
    except OSError as error:
        raise Refused(f"cannot serve {source}: {error.strerror}; give a directory that you can read") from error


def _trace_file(name: str, sources: Sequence[Source]) -> RawIOBase:
    """Without a buffer: what is written is there if the server dies, and nothing is left to fail when it is closed."""
    if name == "-" and _uses_standard_output(sources):
        raise Refused("--trace -: standard output is a connection; write a file's name")
    try:
        return open(os.dup(1) if name == "-" else name, "ab", buffering=0)
    except OSError as error:
        raise Refused(f"cannot write the trace {name}: {error.strerror}; choose another file") from error


def _tracer(file: RawIOBase) -> Callable[[str], None]:
    """Writes lines until that fails; a full disk or a reader that went away must not cost a client its connection."""
    failed = False

    def trace(line: str) -> None:
        nonlocal failed
        if failed:
            return
        try:
            file.write(line.encode(errors="backslashreplace") + b"\n")
        except OSError as error:
            failed = True
            log.warning("no more tracing: %s", error.strerror)

    return trace


def _msize(word: str) -> int:
    parts = re.fullmatch(r"([0-9]{1,9})([kKmM]?)", word)
    size = int(parts[1]) * _UNITS[parts[2].lower()] if parts else 0
    if not _MIN_MSIZE <= size <= _MAX_MSIZE:
        raise argparse.ArgumentTypeError(f"{word}: a number of bytes from {_MIN_MSIZE} to {_MAX_MSIZE >> 20}M is meant")
    return size
