"""fusemap view as a user has it: the address, the page in a real browser, other users, other sites, and its end."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from ..support import needs
from ..support.command import one_sentence, refused
from ..support.process import ALICE, attempt, call_as, children, die_with_parent, wait_exit
from ..support.stage import FUSEMAP, Mounted, Stage, watchdog
from .here import here

SECONDS: Final = 60.0


class Viewer:
    """`fusemap view`, running. `url` is what it printed."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [*FUSEMAP, "view", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent,
        )  # fmt: skip
        watchdog.guard(self.process.pid)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.address = urlsplit(self.url)
        self.host = f"{self.address.hostname}:{self.address.port}"

    def ask(self, path: str = "", method: str = "GET", **headers: str) -> tuple[int, bytes]:
        """Status and body of what is below the page's address."""
        return ask(self.address.port or 0, self.address.path + path, method, Host=self.host, **headers)

    def events(self) -> Events:
        """A stream of events."""
        return Events(self)

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Exit status and standard error after a signal; 0 for none."""
        if number:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said

    def close(self) -> None:
        """Ends it, whatever it does."""
        self.process.kill()
        self.process.communicate(timeout=SECONDS)
        watchdog.release(self.process.pid)


class Events:
    """Server-Sent Events, read one by one."""

    def __init__(self, viewer: Viewer) -> None:
        self._connection = http.client.HTTPConnection(viewer.address.hostname or "", viewer.address.port, SECONDS)
        self._connection.request("GET", viewer.address.path + "events")
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._connection.close()

    def next(self) -> tuple[str, Any]:
        """The next event; ("", None) when there are no more."""
        kind = ""
        while line := self._answer.readline().decode():
            if line.startswith("event: "):
                kind = line[7:].strip()
            if line.startswith("data: "):
                return kind, json.loads(line[6:])
        return "", None

    def until(self, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The model when the condition is met for the first time."""
        model: dict[str, Any] = {}
        while not (model and condition(model)):
            kind, data = self.next()
            assert kind in ("progress", "model", "change"), (kind, data)
            model = {"progress": {}, "model": data, "change": {**model, **data}}[kind]
        return model


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """Status and body of one request to the loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture
def viewers() -> Iterator[Callable[..., Viewer]]:
    """Starts viewers, which are gone after the test."""
    made: list[Viewer] = []

    def start(*arguments: str | Path) -> Viewer:
        made.append(Viewer(*arguments))
        return made[-1]

    yield start
    for viewer in made:
        viewer.close()


@pytest.fixture
def tree(stage: Stage) -> Path:
    """Two file systems whose inodes are the same; one name would be a script, if the page let it."""
    top = stage.tmpfs("tree")
    stage.tmpfs("tree/inner")
    for place in (top, top / "inner"):
        for number in range(3):
            (place / f"<script>document.title='{number}'<").touch()
    return top


@pytest.fixture
def mounted(stage: Stage, tree: Path) -> Mounted:
    """A mount of the tree of which nobody has seen anything."""
    return stage.fusemap(tree)


@contextlib.contextmanager
def held(*paths: Path) -> Iterator[None]:
    """Files that are known for as long."""
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.callback(os.close, os.open(path, os.O_PATH | os.O_NOFOLLOW))
        yield


def raw(model: dict[str, Any]) -> dict[str, Any]:
    """The host's own numbers in a model."""
    (found,) = (scheme for scheme in model["schemes"] if scheme["name"] == "raw")
    return found  # type: ignore[no-any-return]


def test_a_mount_as_it_is_used(mounted: Mounted, viewers: Any) -> None:
    viewer = viewers(mounted.path)
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+/[\w-]{43,}/", viewer.url)
    status, page = viewer.ask()
    assert status == 200
    assert b'data-source="events"' in page
    with viewer.events() as events, contextlib.ExitStack() as stack:
        model = events.until(lambda model: True)
        assert (model["root"], model["live"], model["shown"]) == (str(mounted.source), True, "suffix")
        assert model["devices"]["count"] == 1
        assert raw(model)["pairs"] == 0
        inner = sorted((mounted.path / "inner").iterdir())
        stack.enter_context(held(*inner, *(path for path in mounted.path.iterdir() if path.name != "inner")))
        model = events.until(lambda model: model["devices"]["count"] == 2 and raw(model)["pairs"] >= 3)
        assert [device["path"] for device in model["devices"]["listed"]] == [".", "inner"]
        assert [scheme["pairs"] for scheme in model["schemes"] if scheme["name"] == "suffix"] == [0]
        number, why = mounted.process.pid, str(mounted.path)
        stack.close()
        while attempt("umount", mounted.path).returncode:
            assert os.path.exists(f"/proc/{number}")
        assert mounted.wait() == 0
        while (told := events.next())[0] == "change":
            pass
        assert told == ("end", {"why": f"{why} is not mounted any more"})
        assert events.next() == ("", None)
    status, said = viewer.end(0)
    assert status == 1
    assert one_sentence(said)
    assert said == f"fusemap: {why} is not mounted any more\n"


def test_any_directory_is_looked_through(tree: Path, viewers: Any) -> None:
    viewer = viewers(tree, "--listen", "localhost:0")
    with viewer.events() as events:
        model = events.until(lambda model: True)
        assert (model["root"], model["live"], model["files"]) == (str(tree), False, 8)
        assert raw(model)["pairs"] == len(raw(model)["ledger"]["listed"]) == 3
        assert viewer.end() == (0, "")
        assert events.next() == ("end", {"why": "fusemap view was ended"})
        assert events.next() == ("", None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_although_somebody_does_not_read(tree: Path, viewers: Any, number: int) -> None:
    viewer = viewers(tree)
    with contextlib.ExitStack() as stack:
        for path in ("", "events"):
            stream = stack.enter_context(socket.socket())
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            stream.connect(("127.0.0.1", viewer.address.port))
            stream.sendall(f"GET {viewer.address.path}{path} HTTP/1.1\r\nHost: {viewer.host}\r\n\r\n".encode())
            assert stream.recv(1)
        stack.enter_context(viewer.events())
        assert viewer.end(number) == (0, "")
    with pytest.raises(ConnectionRefusedError):
        ask(viewer.address.port, "/")


def test_a_signal_ends_it_although_the_mount_does_not_answer(mounted: Mounted, viewers: Any) -> None:
    viewer = viewers(mounted.path)
    before = children()
    with viewer.events() as events:
        events.until(lambda model: True)
        os.kill(mounted.pid, signal.SIGSTOP)
        try:
            assert viewer.end() == (0, "")
        finally:
            os.kill(mounted.pid, signal.SIGCONT)
    for pid in children() - before:  # who waits for the mount could not be ended with the rest, and is ours now
        assert wait_exit(pid) == 0


def test_other_users_get_no_name_of_a_file(tree: Path, viewers: Any) -> None:
    """Who has not seen the address can see neither the page nor the address itself."""
    viewer = viewers(tree)
    with viewer.events() as events:
        events.until(lambda model: True)
    pid, port, token = viewer.process.pid, viewer.address.port, viewer.address.path.strip("/")

    def attack() -> list[Any]:
        seen: list[Any] = []
        for path in (
            "/",
            "/events",
            "//events",
            f"/{token[:-1]}/",
            f"/{token.swapcase()}/events",
            f"/{'A' * 43}/",
            "/?x",
        ):
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                seen.append(ask(port, path, method))
        for name in ("cmdline", "environ", "fd", "fdinfo", "maps", "mem", "stat", "net/tcp"):
            with contextlib.suppress(OSError):
                seen.append((0, Path(f"/proc/{pid}/{name}").read_bytes()))
        return seen

    seen = call_as(ALICE, attack)
    assert {status for status, _ in seen} == {0, 404}
    assert not [data for _, data in seen if token.encode() in data or b"script" in data]


def test_another_name_for_this_machine_is_refused(tree: Path, viewers: Any) -> None:
    viewer = viewers(tree)
    port, path = viewer.address.port, viewer.address.path
    for host in ("evil.example", f"evil.example:{port}"):
        for below in ("", "events"):
            status, body = ask(port, path + below, Host=host)
            assert (status, b"script" in body) == (421, False)
    assert ask(port, path, Host="localhost")[0] == 200
    assert viewer.ask(Origin="http://evil.example")[0] == 403
    assert viewer.ask(method="POST")[0] == 405


@pytest.mark.parametrize("tree_", ["missing", "file"])
def test_a_tree_that_is_none(stage: Stage, tree_: str) -> None:
    (stage.path / "file").touch()
    refused(here("view", stage.path / tree_), tree_)


def test_what_is_missing_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    for name in ("h11", "numpy"):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda word, name=name: None if word == name else found(word))
            refused(here("view", tree), name, "pip install 'fusemap[live]'")


def test_the_other_loopback(tree: Path, viewers: Any) -> None:
    needs.ipv6()
    viewer = viewers(tree, "--listen", "[::1]:0")
    assert re.fullmatch(r"http://\[::1\]:[1-9]\d+/[\w-]{43,}/", viewer.url)
    with viewer.events() as events:
        events.until(lambda model: True)


def test_addresses_that_will_not_do(stage: Stage) -> None:
    refused(here("view", stage.path, "--listen", "0.0.0.0:0"), "ssh -L", "--let-others-connect")
    refused(here("view", stage.path, "--listen", "[::]:0"), "--let-others-connect")
    refused(here("view", stage.path, "--listen", "a..b:0"), "a..b")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(here("view", stage.path, "--listen", address), address, "another port")


@pytest.mark.parametrize("arguments", [[], ["/", "--listen", "x"], ["/", "--listen", "127.0.0.1:65536"]], ids=" ".join)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = here("view", *arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_others_are_let_in_only_when_told_and_then_warned_of(tree: Path, viewers: Any) -> None:
    viewer = viewers(tree, "--listen", "0.0.0.0:0", "--let-others-connect")
    port, path = viewer.address.port, viewer.address.path
    assert ask(port, path, Host=f"10.1.2.3:{port}")[0] == 200
    assert ask(port, path, Host="evil.example")[0] == 421
    status, said = viewer.end()
    assert status == 0
    assert "warning" in said


# A browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, with a window as large as a small laptop's."""
    from ..support.browser import Browser

    found = Browser(tmp_path_factory.mktemp("browser"))
    try:
        found.resize(1280, 900)
        yield found
    finally:
        found.close()


ROWS = "return [...document.querySelectorAll(arguments[0] + ' tr')].map(row => row.innerText)"
ATTACK = """
const told = arguments[arguments.length - 1], url = arguments[0], seen = {};
const after = (name, what) => what.then(v => seen[name] = v, e => seen[name] = "failed");
const text = options => fetch(url, options).then(answer => answer.text());
const loaded = (kind, set) => new Promise(end => {
    const element = document.createElement(kind);
    element.onload = () => end("loaded");
    element.onerror = () => end("failed");
    set(element);
    document.body.append(element);
});
loaded("iframe", e => { e.src = url; });
const streamed = new Promise(end => {
    const source = new EventSource(url + "events");
    source.addEventListener("model", () => end("streamed"));
    source.onerror = () => { source.close(); end("failed"); };
});
Promise.all([
    after("cors", text({})), after("opaque", text({mode: "no-cors"})),
    after("credentials", text({credentials: "include"})),
    after("posted", text({method: "POST", mode: "no-cors", body: "x"})), after("stream", streamed),
    after("script", loaded("script", e => { e.src = url + "events"; })),
    after("image", loaded("img", e => { e.src = url; })),
]).then(() => told(seen));
"""


def test_a_browser_sees_devices_and_collisions_appear(mounted: Mounted, browser: Any, viewers: Any) -> None:
    """And no name is more to it than text, nothing is asked of anybody else; and it says when it is over."""
    viewer = viewers(mounted.path)
    browser.open(viewer.url)
    rows = lambda table: browser.script(ROWS, table)  # noqa: E731
    browser.wait(lambda: len(rows("#device-rows")) == 1)
    assert rows("#ledger-rows") == []
    assert "live" in browser.script("return document.querySelector('#live').innerText")
    with held(*(mounted.path / "inner").iterdir(), *(path for path in mounted.path.iterdir() if path.name != "inner")):
        browser.wait(lambda: len(rows("#device-rows")) == 2)
        assert "inner" in rows("#device-rows")[1]
        ledger = browser.wait(lambda: rows("#ledger-rows"))
        browser.wait(lambda: any("inner/<script>document.title=" in row for row in rows("#ledger-rows")))
        assert ledger
    title = browser.script("return document.title")
    assert title not in ("0", "1", "2")
    assert browser.complaints() == []
    assert {urlsplit(url).netloc for url in browser.requests() if not url.startswith("data:")} == {viewer.host}
    assert viewer.end() == (0, "")
    browser.wait(lambda: "was ended" in browser.script("return document.querySelector('#live').innerText"))
    assert len(rows("#device-rows")) == 2, "what was shown stays"


def test_another_site_learns_nothing_although_it_knows_the_address(tree: Path, browser: Any, viewers: Any) -> None:
    """The worst case: the secret got out. Nothing of the page can be read from another origin, or framed."""
    viewer = viewers(tree)
    with viewer.events() as events:
        events.until(lambda model: True)

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title><link rel=icon href='data:,'><body>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil) as site:
        thread = threading.Thread(target=site.serve_forever, daemon=True)
        thread.start()
        try:
            browser.open(f"http://127.0.0.1:{site.server_port}/")
            seen = browser.driver.execute_async_script(ATTACK, viewer.url)
            told: list[Any] = []
            answers = browser.wait(lambda: len(found := statuses(browser, viewer.host, told)) == 8 and found)
        finally:
            site.shutdown()
            thread.join(SECONDS)
    assert answers == [403] * 8
    assert set(seen) == {"cors", "opaque", "credentials", "posted", "stream", "script", "image"}
    assert set(seen.values()) == {"failed"}


def statuses(browser: Any, host: str, told: list[Any]) -> list[int]:
    """With what a host has answered, whatever the page was told of it; `told` keeps what the browser has logged."""
    told += (json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance"))
    asked = {
        event["params"]["requestId"]
        for event in told
        if event["method"] == "Network.requestWillBeSent" and urlsplit(event["params"]["request"]["url"]).netloc == host
    }
    answers = [event["params"] for event in told if event["method"] == "Network.responseReceivedExtraInfo"]
    return [answer["statusCode"] for answer in answers if answer["requestId"] in asked]
