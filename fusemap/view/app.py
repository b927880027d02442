"""The live page as an ASGI application: who may see it, and the two things there are to see.

    /TOKEN/          the page
    /TOKEN/events    what it shows, as Server-Sent Events (fusemap.view.model says which)

A page of a tree tells names of files, and a port of the loopback is open to every user of the machine and to every web
site that a browser on it has open. What keeps them out:

* Another user does not know the token, 256 random bits that only the terminal shows. It is compared in constant time,
  and whoever has it wrong is told the same as if there were no such page.
* It stays in the path. A cookie would be no safer but less: browsers send the cookies of 127.0.0.1 to every port there,
  those of other users' servers among them.
* Another site cannot read answers, since nothing here allows it to (no CORS), nor frame the page, nor learn the token
  from it: the page has no links, sends no referrer, loads nothing from elsewhere and is in nobody's cache. What comes
  from another site by its own words (Origin, Sec-Fetch-Site) is refused besides, token or not.
* A name that another site has made to point to 127.0.0.1 (DNS rebinding) would make it the same origin. So the Host
  must be one that we are known by.

The application keeps nothing about its clients and can be called without any server, which is how most tests do it.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, TypeAlias

import trio

from fusemap.view.board import Board

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = "list[tuple[bytes, bytes]]"

STREAMS: Final = 16
"""Streams that may be open at a time; a browser opens one for each tab."""
QUIET_SECONDS: Final = 15.0
"""How long a stream says nothing before it sends a comment, by which a client that went away is noticed."""
RETRY_MS: Final = 2000
"""How long a browser waits before it opens a stream anew."""

_ALWAYS: Final = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"


def new_token() -> str:
    """A token that nobody can guess, fit for a path."""
    return secrets.token_urlsafe(32)


class App:
    """The application. `page` is HTML and `policy` its Content-Security-Policy.

    `names` are the host names, besides localhost and addresses of the loopback, by which it is known. With `public` any
    address will do as Host: it listens to more than the loopback, and an address cannot be made to point elsewhere.
    """

    def __init__(
        self, page: bytes, board: Board, token: str, policy: str, *, names: Iterable[str] = (), public: bool = False,
        streams: int = STREAMS, quiet: float = QUIET_SECONDS,
    ) -> None:  # fmt: skip
        self._page = page
        self._board = board
        self._token = token.encode()
        self._policy = policy
        self._names = frozenset(name.lower() for name in names) | {"localhost"}
        self._public = public
        self._streams = streams
        self._quiet = quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            raise NotImplementedError("only HTTP is spoken here")
        headers: Headers = [(name.lower(), value) for name, value in scope["headers"]]
        rest = self._after_token(scope["path"])
        if not self._is_us(_values(headers, b"host")):
            await _say(send, 421, "this server is not known by that name; use the address that fusemap view printed")
        elif _is_foreign(headers):
            await _say(send, 403, "this page is not for other sites")
        elif rest is None:
            await _say(send, 404, "there is no such page; use the address that fusemap view printed")
        elif scope["method"] not in ("GET", "HEAD"):
            await _say(send, 405, "this page can only be read", [(b"allow", b"GET, HEAD")])
        elif rest == "events":
            await self._events(scope, receive, send)
        elif rest == "":
            kind = [(b"content-type", b"text/html; charset=utf-8")]
            await _send(send, 200, self._page, kind, self._policy)
        else:
            await _say(send, 404, "there is no such page; use the address that fusemap view printed")

    def _after_token(self, path: str) -> str | None:
        """What follows the token in a path; None where the token is not the right one."""
        given, _, rest = path.removeprefix("/").partition("/")
        return rest if hmac.compare_digest(given.encode(errors="replace"), self._token) else None

    def _is_us(self, hosts: list[bytes]) -> bool:
        """Whether the one Host header names us. Its port may be any: it is another one behind `ssh -L`."""
        if len(hosts) != 1:
            return False
        host, port = _split(hosts[0].decode("latin-1"))
        if port and not (port.isascii() and port.isdigit()):
            return False
        if host.lower() in self._names:
            return True
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return (":" in host) == host.startswith("[") and (self._public or address.is_loopback)

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._board.readers >= self._streams:
            await _say(send, 503, "too many pages are open; close some", [(b"retry-after", b"5")])
            return
        kind = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
        if scope["method"] == "HEAD":
            await _send(send, 200, b"", kind)
            return
        with self._board.reader() as reader:
            await send({"type": "http.response.start", "status": 200, "headers": _headers(kind, _NOTHING)})
            await send(_body(b"retry: %d\n\n" % RETRY_MS, more=True))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                while not reader.ended:
                    block = b":\n\n"
                    with trio.move_on_after(self._quiet):
                        news = await reader.news()
                        block = b"".join(b"event: %b\ndata: %b\n\n" % (e.kind.encode(), e.data) for e in news)
                    await send(_body(block, more=True))
                nursery.cancel_scope.cancel()
            if reader.ended:
                await send(_body(b"", more=False))


async def _until_gone(receive: Receive, stream: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.cancel()


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _split(host: str) -> tuple[str, str]:
    """Host and port; an IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and not port.endswith("]") else (host, "")


def _is_foreign(headers: Headers) -> bool:
    """Whether a browser says that another site is asking. What a person opens from elsewhere is none."""
    hosts = _values(headers, b"host")
    if any(origin != b"http://" + hosts[0] for origin in _values(headers, b"origin")):
        return True
    site, mode, goal = (_values(headers, b"sec-fetch-" + name) for name in (b"site", b"mode", b"dest"))
    opened = (mode, goal) == ([b"navigate"], [b"document"])
    return not all(value in (b"none", b"same-origin") for value in site) and not opened


def _headers(own: Headers, policy: str) -> Headers:
    return [*own, *_ALWAYS, (b"content-security-policy", policy.encode())]


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _send(send: Send, status: int, data: bytes, headers: Headers, policy: str = _NOTHING) -> None:
    length = [(b"content-length", b"%d" % len(data))] if data else []
    await send({"type": "http.response.start", "status": status, "headers": _headers(headers + length, policy)})
    await send(_body(data, more=False))


async def _say(send: Send, status: int, sentence: str, headers: Headers | None = None) -> None:
    plain = [(b"content-type", b"text/plain; charset=utf-8"), *(headers or [])]
    await _send(send, status, f"{sentence}\n".encode(), plain)
