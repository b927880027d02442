"""The page when its data comes from a live source: what is new is marked, and where the user was he stays."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest

from fusemap.view.model import model
from fusemap.view.page import page as html_of

from ..support.browser import SECONDS, Browser
from .pretend import Disk, pretended
from .shown import HOME, RIGHT, Page

DISKS: Final = [Disk(b".", 40), Disk(b"data", 60, 64, "xfs"), Disk(b"vm/alice", 35, 256), Disk(b"vm/bob", 35, 256)]


class Source:
    """A live source: what is put into `events` goes to whoever listens."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.more = threading.Condition()
        self.done = False
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = html_of(None, "events").encode()
                self.send_response(200)
                if self.path == "/page":
                    self.send_header("Content-Type", "text/html; charset=utf-8")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                sent = 0
                while not source.done:
                    with source.more:
                        source.more.wait_for(lambda: source.done or len(source.events) > sent, SECONDS)
                    for event in source.events[sent:]:
                        self.wfile.write(event.encode())
                        sent += 1
                    self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/page"

    def send(self, event: str, data: object) -> None:
        with self.more:
            self.events.append(f"event: {event}\ndata: {json.dumps(data)}\n\n")
            self.more.notify_all()

    def close(self) -> None:
        with self.more:
            self.done = True
            self.more.notify_all()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def source() -> Iterator[Source]:
    found = Source()
    try:
        yield found
    finally:
        found.close()


def live(found: dict[str, Any]) -> dict[str, Any]:
    """A model as a mount can give it: no lanes, no maps, two schemes."""
    two = (scheme for scheme in found["schemes"] if scheme["name"] in ("raw", "suffix"))
    schemes = [{**scheme, "lanes": None, "map": []} for scheme in two]
    return {**found, "live": True, "shown": "suffix", "made": None, "lanes": None, "schemes": schemes}


def test_a_live_source(browser: Browser, source: Source) -> None:
    with pretended(DISKS[:3]) as census:
        before = live(model(census))
    with pretended(DISKS) as census:
        after = live(model(census))
    browser.open(source.address)
    page = Page(browser)
    source.send("progress", {"doing": "walking", "names": 12, "devices": 2})
    browser.wait(lambda: page.text("#live") == "walking: 12 names, 2 devices")
    assert not page.seen("main")
    source.send("model", before)
    browser.wait(lambda: page.seen("main"))
    assert page.text("h1") == "No two of 135 files known so far share a number"
    assert page.text("#live") == "● live"
    assert not page.seen("#map")
    assert not page.seen("#lanes")
    assert page.texts(".new") == []
    assert "This mount shows the tree with suffix" in page.text("#remedy")
    page.browser.script("document.getElementById('slider').focus()")
    browser.press(RIGHT)
    assert page.text("#said").startswith("suffix: ")
    source.send("change", {"devices": after["devices"], "files": after["files"]})
    browser.wait(lambda: len(page.texts("#device-rows tr")) == 4)
    assert page.texts("#device-rows .new") == ["new"]
    assert page.text("#said").startswith("suffix: ")
    assert page.focused() == "slider"
    page.browser.press(HOME)
    source.send("model", after)
    browser.wait(lambda: page.text("h1").startswith("70 of 170 files known so far"))
    assert page.texts("#ledger-rows .new") == ["new"] * 20
    source.send("end", {"why": "the tree was unmounted."})
    browser.wait(lambda: page.text("#live") == "Ended: the tree was unmounted.")
    assert page.text("h1").startswith("70 of 170")
    base = source.address.removesuffix("page")
    assert browser.requests() == [f"{base}page", f"{base}events"]
    assert browser.complaints() == []
