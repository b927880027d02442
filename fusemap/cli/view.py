"""fusemap view: a tree in the browser, live.

A mount is watched: what the page shows is what the mount tells of itself (fusemap.tree.telling), as files are touched.
Of any other directory a census is taken, as `fusemap scan` does; the page shows how far it is, then what it found.

The page is for whoever has started this and for nobody else; fusemap.view.app says how that is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fusemap.cli import extras, streams
from fusemap.cli.apart import Apart
from fusemap.cli.readings import Gone, source_of
from fusemap.errors import FusemapError, Refused

if TYPE_CHECKING:
    import trio

    from fusemap.view.board import Board
    from fusemap.view.feeds import Feed, Told

_BACKLOG: Final = 64
_TAKEN: Final = (errno.EADDRINUSE, errno.EACCES)
_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GOODBYE_SECONDS: Final = 0.5

DESCRIPTION: Final = """\
Serves a page that shows TREE, and prints its address; open that in a browser on this machine. TREE is a mount made with
fusemap, which is shown live: devices and collisions appear as files are touched. Or any directory: then its files are
looked through first, as fusemap scan does. Ctrl-C ends it.

The address holds a secret, and only who knows it sees the page. To see it from another machine, forward the port:
  ssh -L 8000:127.0.0.1:8000 server fusemap view /mnt/tree --listen 127.0.0.1:8000
"""


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    verb = verbs.add_parser(
        "view", help="a tree in the browser, live", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verb.add_argument("tree", metavar="TREE", help="a fusemap mount, the address of a 9P server, or any directory")
    verb.add_argument(
        "--listen", type=_address, default=("127.0.0.1", 0), metavar="HOST:PORT",
        help="where to listen (default 127.0.0.1 and a free port); 0 is a free port",
    )  # fmt: skip
    verb.add_argument(
        "--let-others-connect", action="store_true",
        help="listen also where other machines can connect; the page then crosses the network in the clear",
    )  # fmt: skip
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves the page until a signal comes; returns the exit status."""
    extras.need("h11", "live", "fusemap view needs h11")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    with contextlib.ExitStack() as stack:
        feed = _feed(options.tree, stack)
        listening = stack.enter_context(_listen(*options.listen, others=options.let_others_connect))
        import trio

        return trio.run(_serve, feed, listening, options)


def _feed(tree: str, stack: contextlib.ExitStack) -> Feed:
    """What the page is to be fed with. Raises Refused."""
    from fusemap.view.feeds import CensusFeed, MountFeed

    source = source_of(tree)
    if source is not None:
        stack.enter_context(contextlib.closing(source))
        return MountFeed(stack.enter_context(Apart(source)).read, Gone)
    extras.need("numpy", "live", "to look through a directory fusemap view needs numpy")
    if not os.path.isdir(tree):
        raise Refused(f"{tree} is not a directory: name a fusemap mount, or a directory to look through")
    return CensusFeed(partial(_census, tree))


def _census(tree: str, told: Told) -> dict[str, Any]:
    """The page's object of a directory, as `fusemap scan --html` has it. Raises Refused."""
    from fusemap.census import SCHEMES, take
    from fusemap.cli.scan import stored
    from fusemap.view.model import model

    source = os.path.abspath(tree)
    try:
        with take(
            source, tuple(SCHEMES), mapper=stored(source, "auto"),
            progress=lambda doing, names, devices, done: told(doing, names, devices),
        ) as census:  # fmt: skip
            census.root = tree
            return model(census, lambda doing, part: told(doing, census.names, len(census.devices)))
    except OSError as error:
        if isinstance(error, FusemapError):
            raise
        raise Refused(f"{tree}: {error.strerror or error}") from error


async def _serve(feed: Feed, listening: socket.socket, options: argparse.Namespace) -> int:
    import trio

    from fusemap.view.app import App, new_token
    from fusemap.view.board import Board
    from fusemap.view.host import Host
    from fusemap.view.page import page, policy

    board, token, others = Board(), new_token(), options.let_others_connect
    # On the loopback nobody has a reason to know us by the machine's name, and who answers for that may be anybody.
    names = [options.listen[0], socket.gethostname()] if others else [options.listen[0]]
    own_policy = f"{policy(True)}; frame-ancestors 'none'"
    app = App(page(None, "events").encode(), board, token, own_policy, names=names, public=others)
    outcome = _Outcome()
    with trio.open_signal_receiver(*_STOPS) as signals:
        _say(f"{_url(listening)}{token}/")  # who comes before there is a server waits
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Host(app).run, [listening])
            nursery.start_soon(_feeding, feed, board, outcome, nursery.cancel_scope)
            async for _ in signals:
                break
            await _goodbye(board, "fusemap view was ended")
            nursery.cancel_scope.cancel()
    if outcome.error is not None:
        raise outcome.error
    return outcome.status


def _say(address: str) -> None:
    try:
        with streams.output():
            print(address)
    except BrokenPipeError:  # whoever started us does not want to know
        streams.drop()


class _Outcome:
    """What the command's end is to be."""

    def __init__(self) -> None:
        self.status = 0
        self.error: FusemapError | None = None


async def _feeding(feed: Feed, board: Board, outcome: _Outcome, everything: trio.CancelScope) -> None:
    try:
        why = await feed.run(board)
        outcome.status = 1
        print(f"fusemap: {why}", file=sys.stderr)
    except FusemapError as error:
        outcome.error, why = error, str(error)
    await _goodbye(board, why)
    everything.cancel()


async def _goodbye(board: Board, why: str) -> None:
    """Tells every page, and waits for a moment until it has been heard."""
    import trio

    board.end(why)
    with trio.move_on_after(_GOODBYE_SECONDS):
        await board.left()


def _address(word: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):([0-9]{1,5})", word)
    if found is None or int(found[2]) > 65535:
        raise argparse.ArgumentTypeError(f"{word}: HOST:PORT is meant, for example 127.0.0.1:8000 or [::1]:8000")
    return found[1].strip("[]"), int(found[2])


def _listen(host: str, port: int, *, others: bool) -> socket.socket:
    """A socket that listens. Raises Refused."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise Refused(f"there is no address {host}; use 127.0.0.1, or one of this machine's") from error
    if not ipaddress.ip_address(address[0]).is_loopback:
        if not others:
            raise Refused(
                f"{host} can be reached from other machines, and the page tells names of files; listen on 127.0.0.1 "
                f"and forward the port with ssh -L, or say --let-others-connect"
            )
        print(
            "fusemap: warning: the page and the secret in its address cross the network in the clear", file=sys.stderr
        )
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        hint = "; choose another port, or 0 for a free one" if error.errno in _TAKEN else ""
        raise Refused(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from error
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
