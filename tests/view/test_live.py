"""The live page without a server: the board, the application's refusals, a mount's readings as the page's object."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fusemap.view.app import App, new_token
from fusemap.view.board import Board, encoded
from fusemap.view.feeds import CensusFeed, MountFeed
from fusemap.view.live import live_model
from fusemap.view.model import model
from fusemap.view.reading import LISTED, Reading, SoFar, news

from .pretend import Disk, pretended
from .readings import collision, device, file, reading

TOKEN = "a-token"
OURS = (b"host", b"127.0.0.1:8000")
PAGE = b"<!doctype html>"
WHOLE = {"files": b"1", "root": b'"/srv/tree"'}


# The board


async def told(board: Board) -> list[tuple[str, Any]]:
    """What a new stream is told at first."""
    with board.reader() as reader:
        return [(event.kind, json.loads(event.data)) for event in await reader.news()]


async def test_a_stream_begins_with_all_there_is() -> None:
    board = Board()
    board.progress("walking", 10, 2)
    assert await told(board) == [("progress", {"doing": "walking", "names": 10, "devices": 2})]
    board.update(WHOLE)
    assert await told(board) == [("model", {"files": 1, "root": "/srv/tree"})]
    board.end("it is over")
    assert await told(board) == [("model", {"files": 1, "root": "/srv/tree"}), ("end", {"why": "it is over"})]


async def test_a_slow_stream_is_told_the_newest_of_each_part_once() -> None:
    board = Board()
    with board.reader() as reader:
        board.update(WHOLE)
        await reader.news()
        for number in range(1000):
            board.update({"files": encoded(number), "names": encoded(-number)})
        (event,) = await reader.news()
        assert event.kind == "change"
        assert json.loads(event.data) == {"files": 999, "names": -999}


async def test_what_is_the_same_is_not_told_again() -> None:
    board = Board()
    assert board.update(WHOLE)
    with board.reader() as reader:
        await reader.news()
        assert not board.update(WHOLE)
        with trio.move_on_after(0.01) as limit:
            await reader.news()
        assert limit.cancelled_caught


async def test_the_board_knows_whether_anybody_looks() -> None:
    board = Board()
    await board.left()
    with board.reader(), board.reader():
        assert board.readers == 2
        await board.watched()
    await board.left()
    with trio.move_on_after(0.01) as limit:
        await board.watched()
    assert limit.cancelled_caught


# What was so far


def test_what_is_forgotten_counts_on() -> None:
    so_far = SoFar()
    so_far.add(reading(known=20, collisions=[collision(7, file("a"), file("b"), file("c")), collision(8, file("d"))]))
    now = so_far.add(
        reading(
            devices=[device("uuid:one", "1", known=3)],
            known=3,
            collisions=[collision(7, file("a"), file("b"), harm="loop"), collision(9, file("e"))],
        )
    )
    assert [(one["number"], one["count"]) for one in now.collisions["collisions"]] == [(7, 3), (8, 1), (9, 1)]
    assert now.collisions["averted"] == {"loop": 1, "error": 0, "mixed": 2}
    assert (now.stats["known_inodes"], now.devices[0]["known_inodes"]) == (20, 10)
    assert list(news(now, now)) == []
    anew = so_far.add(reading(pid=8))
    assert anew.collisions["collisions"] == [], "another process"


def test_of_very_many_the_worst_are_remembered_and_all_counted() -> None:
    so_far = SoFar()
    for start in range(0, 4 * LISTED, 100):
        some = [collision(number, file("a"), file("b")) for number in range(start, start + 100)]
        some.append(collision(start, file("x"), file("y"), harm="loop", real=True))
        now = so_far.add(reading(collisions=some))
    listed = now.collisions["collisions"]
    assert len(listed) == LISTED
    assert [one["real"] for one in listed[:20]] == [True] * 20
    assert now.collisions["averted"]["mixed"] == 4 * LISTED
    assert now.collisions["real"]["loop"] == 20


# The application


class Answer:
    """What the application sent. `gone` is what its client does to leave."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.whole = False
        self.gone = trio.Event()
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            assert not self.status
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            assert self.status
            assert not self.whole
            self.body += message["body"]
            self.whole = not message["more_body"]


def application(board: Board | None = None, **options: Any) -> App:
    return App(PAGE, board or Board(), TOKEN, "default-src 'none'", **options)


def scope(path: str, headers: tuple[tuple[bytes, bytes], ...], method: str) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "query_string": b"", "headers": list(headers)}


async def ask(
    app: App, path: str = f"/{TOKEN}/", *headers: tuple[bytes, bytes], method: str = "GET", host: bool = True
) -> Answer:
    answer = Answer()
    with trio.move_on_after(30):
        await app(scope(path, (OURS, *headers) if host else headers, method), answer.receive, answer.send)
    assert answer.whole
    return answer


async def test_the_page_and_what_is_said_of_it() -> None:
    answer = await ask(application())
    assert (answer.status, answer.body) == (200, PAGE)
    assert answer.headers[b"content-type"] == b"text/html; charset=utf-8"
    assert answer.headers[b"content-length"] == b"%d" % len(PAGE)
    assert answer.headers[b"cache-control"] == b"no-store"
    assert answer.headers[b"referrer-policy"] == b"no-referrer"
    assert answer.headers[b"x-content-type-options"] == b"nosniff"
    assert answer.headers[b"content-security-policy"] == b"default-src 'none'"
    assert b"set-cookie" not in answer.headers
    assert not [name for name in answer.headers if name.startswith(b"access-control-")]


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 43 and token.replace("-", "").replace("_", "").isalnum() for token in tokens)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "//",
        "/a-toke/",
        "/a-tokenn/",
        "/A-TOKEN/",
        "/a-token\0/",
        "/\xe4/",
        "/\ud800/",
        "/events",
        "/x/a-token/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_the_token_there_is_nothing(path: str, method: str) -> None:
    """Whatever is asked for: so that nothing tells whether a guess was near."""
    answers = [await ask(application(), at, method=method) for at in (path, "/guess/", "/guess/events")]
    assert {(answer.status, answer.body) for answer in answers} == {(404, answers[0].body)}
    assert PAGE not in answers[0].body


@pytest.mark.parametrize(
    "host",
    [
        b"127.0.0.1",
        b"127.0.0.1:8000",
        b"localhost:8000",
        b"LocalHost",
        b"[::1]:8000",
        b"127.9.9.9:1",
        b"box.example:80",
    ],
)
async def test_names_by_which_it_is_known(host: bytes) -> None:
    app = application(names=["box.example"])
    assert (await ask(app, f"/{TOKEN}/", (b"Host", host), host=False)).status == 200


@pytest.mark.parametrize(
    "hosts",
    [
        [], [b""], [b"evil.example"], [b"evil.example:8000"], [b"localhost.evil.example"], [b"127.0.0.1.evil.example"],
        [b"127.0.0.1:8000", b"evil.example"], [b"evil.example", b"127.0.0.1:8000"], [b"127.0.0.1:x"],
        [b"user@127.0.0.1"], [b"10.0.0.1:8000"], [b"[127.0.0.1]:8000"], [b"::1"], [b"\xff"], [b"2130706433"],
        [b"localhost."], [b"127.1"],
    ],
    ids=repr,
)  # fmt: skip
async def test_a_name_made_to_point_here_is_not_ours(hosts: list[bytes]) -> None:
    for path in (f"/{TOKEN}/", f"/{TOKEN}/events", "/"):
        answer = await ask(application(), path, *((b"host", host) for host in hosts), host=False)
        assert answer.status == 421
        assert PAGE not in answer.body


async def test_where_others_may_connect_any_address_will_do_but_no_other_name() -> None:
    app = application(public=True, names=["box"])
    for host, status in ((b"10.0.0.1:8000", 200), (b"box:8000", 200), (b"[fd00::1]:8000", 200), (b"evil.example", 421)):
        assert (await ask(app, f"/{TOKEN}/", (b"host", host), host=False)).status == status


@pytest.mark.parametrize(
    "headers",
    [
        {b"origin": b"http://evil.example"},
        {b"origin": b"null"},
        {b"origin": b"https://127.0.0.1:8000"},
        {b"origin": b"http://127.0.0.1:9000"},
        {b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"no-cors", b"sec-fetch-dest": b"script"},
        {b"sec-fetch-site": b"same-site", b"sec-fetch-mode": b"cors", b"sec-fetch-dest": b"empty"},
        {b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"iframe"},
        {b"sec-fetch-site": b"cross-site"},
    ],
    ids=repr,
)
async def test_another_site_gets_nothing_even_with_the_token(headers: dict[bytes, bytes]) -> None:
    for path in (f"/{TOKEN}/", f"/{TOKEN}/events"):
        assert (await ask(application(), path, *headers.items())).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {b"origin": b"http://127.0.0.1:8000", b"sec-fetch-site": b"same-origin"},
        {b"sec-fetch-site": b"none", b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"},
        {b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"},
    ],
    ids=repr,
)
async def test_what_a_person_opens_is_shown(headers: dict[bytes, bytes]) -> None:
    assert (await ask(application(), f"/{TOKEN}/", *headers.items())).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"])
@pytest.mark.parametrize("path", [f"/{TOKEN}/", f"/{TOKEN}/events", f"/{TOKEN}/other"])
async def test_it_can_only_be_read(method: str, path: str) -> None:
    answer = await ask(application(), path, method=method)
    assert (answer.status, answer.headers[b"allow"]) == (405, b"GET, HEAD")


async def test_there_is_nothing_else() -> None:
    for path in ("x", "events/", "../", "%65vents", "favicon.ico"):
        assert (await ask(application(), f"/{TOKEN}/{path}")).status == 404


async def test_head_is_get_without_a_body() -> None:
    for path in (f"/{TOKEN}/", f"/{TOKEN}/events"):
        answer = await ask(application(), path, method="HEAD")
        assert answer.status == 200


async def test_only_http() -> None:
    with pytest.raises(NotImplementedError):
        await application()({"type": "websocket"}, Answer().receive, Answer().send)


@asynccontextmanager
async def stream(app: App) -> Any:
    """An open stream of events; its client leaves at the end, and then the application must return."""
    answer = Answer()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app, scope(f"/{TOKEN}/events", (OURS,), "GET"), answer.receive, answer.send)
            await wait_all_tasks_blocked()
            yield answer
            answer.gone.set()


def events(answer: Answer) -> list[tuple[str, Any]]:
    """The events of a stream so far, comments and instructions left out."""
    blocks = [block.split("\n") for block in answer.body.decode("ascii").split("\n\n")]
    found = [dict(line.split(": ", 1) for line in block if line and not line.startswith(":")) for block in blocks]
    return [(block["event"], json.loads(block["data"])) for block in found if "event" in block]


async def test_a_stream_tells_what_happens() -> None:
    board = Board()
    async with stream(application(board)) as answer:
        assert answer.status == 200
        assert answer.headers[b"content-type"] == b"text/event-stream"
        assert answer.headers[b"cache-control"] == b"no-store"
        board.update(WHOLE)
        await wait_all_tasks_blocked()
        board.update({"files": b"2"})
        await wait_all_tasks_blocked()
        assert events(answer) == [("model", {"files": 1, "root": "/srv/tree"}), ("change", {"files": 2})]
        assert board.readers == 1
    assert board.readers == 0


async def test_a_stream_ends_with_the_board() -> None:
    board = Board()
    board.update(WHOLE)
    async with stream(application(board)) as answer:
        board.end("it was unmounted")
        await wait_all_tasks_blocked()
        assert events(answer)[-1] == ("end", {"why": "it was unmounted"})
        assert answer.whole
        assert board.readers == 0


async def test_a_quiet_stream_shows_that_it_lives(autojump_clock: trio.testing.MockClock) -> None:
    async with stream(application(quiet=5)) as answer:
        said = len(answer.body)
        await trio.sleep(21)
        assert answer.body[said:] == b":\n\n" * 4


async def test_there_are_only_so_many_streams() -> None:
    app = application(Board(), streams=2)
    async with stream(app) as one, stream(app) as two, stream(app) as three:
        assert [each.status for each in (one, two, three)] == [200, 200, 503]
    async with stream(app) as again:
        assert again.status == 200


async def test_a_stream_that_is_not_read_holds_up_nobody() -> None:
    board = Board()
    app = application(board)
    stuck = trio.Event()

    async def stuck_send(message: Any) -> None:
        await stuck.wait()

    async with stream(app) as other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app, scope(f"/{TOKEN}/events", (OURS,), "GET"), Answer().receive, stuck_send)
            board.update(WHOLE)
            await wait_all_tasks_blocked()
            board.update({"files": b"2"})
            await wait_all_tasks_blocked()
            assert [kind for kind, _ in events(other)] == ["model", "change"]
            nursery.cancel_scope.cancel()


# The feeds


class Unmounted(Exception):
    pass


async def test_a_mount_is_asked_while_somebody_looks() -> None:
    """And seldom while nobody does; when it is gone, that is the end."""
    count = 0

    def read() -> Reading:
        nonlocal count
        count += 1
        if count == 40:
            raise Unmounted("/mnt is not mounted any more")
        return reading(known=count)

    board = Board()
    ended: list[str] = []

    async def feed() -> None:
        ended.append(await MountFeed(read, Unmounted, interval=0.001, idle=1000).run(board))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed)
        await trio.sleep(0.2)
        assert count <= 1
        with board.reader() as reader:
            assert [event.kind for event in await reader.news()] == ["model"]
            while not ended:
                with trio.move_on_after(0.1):
                    await reader.news()
    assert ended == ["/mnt is not mounted any more"]
    with board.reader() as reader:
        (whole,) = await reader.news()
        assert json.loads(whole.data)["files"] >= 39


async def test_a_census_is_told_of_and_stays() -> None:
    board = Board()

    def make(told: Callable[[str, int, int], None]) -> dict[str, Any]:
        told("walking", 5, 1)
        return {"files": 5}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(CensusFeed(make).run, board)
        with board.reader() as reader, trio.fail_after(30):
            seen = [event async for event in until_model(reader)]
            assert seen[-1] == ("model", {"files": 5})
        nursery.cancel_scope.cancel()


async def until_model(reader: Any) -> Any:
    while True:
        for event in await reader.news():
            yield event.kind, json.loads(event.data)
            if event.kind == "model":
                return


# A mount as the page's object


def test_it_is_the_object_that_a_census_makes() -> None:
    """Key for key, whatever is in the lists: the page knows no other."""
    with pretended([Disk(b".", 30), Disk(b"inner", 30)]) as census:
        static = model(census)
    live = live_model(reading(collisions=[collision(7, file("a"), file("b", "uuid:two"))]))
    assert same_keys(live, static) == []


def same_keys(one: Any, other: Any, where: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        if where.endswith(("colliding", "lengths")):
            return []
        wrong = [f"{where}.{key}" for key in one.keys() ^ other.keys()]
        return wrong + [
            found for key in one.keys() & other.keys() for found in same_keys(one[key], other[key], f"{where}.{key}")
        ]
    if isinstance(one, list) and isinstance(other, list) and one and other:
        return same_keys(one[0], other[0], f"{where}[]")
    return []


def test_a_mounts_devices_and_collisions() -> None:
    found: Any = live_model(
        reading(
            devices=[device("uuid:one", "1"), device("uuid:two", "010", ["/srv/tree/inner"], known=5)],
            collisions=[
                collision(7, file("a\udcff"), file("inner/b", "uuid:two"), count=20),
                collision(2, file("."), file("inner", "uuid:two"), harm="loop"),
            ],
        )
    )
    assert json.loads(encoded(found)) == found
    assert [one["path"] for one in found["devices"]["listed"]] == [".", "inner"]
    assert [one["colliding"] for one in found["devices"]["listed"]] == [{"raw": 2}] * 2
    assert found["budget"] == {"affixes": 2, "elsewhere": 0, "lengths": {"1": 1, "3": 1}, "spent": 0.625}
    raw, suffix = found["schemes"]
    assert (raw["name"], suffix["name"], found["shown"]) == ("raw", "suffix", "suffix")
    assert (raw["files"], raw["numbers"]) == ({"loop": 2, "error": 0, "mixed": 20}, {"loop": 1, "error": 0, "mixed": 1})
    assert (raw["pairs"], suffix["pairs"]) == (191, 0)
    assert raw["ledger"]["left_out"] == 0
    assert raw["ledger"]["listed"][0]["left_out"] == 18
    assert raw["ledger"]["listed"][0]["files"][1] == {
        "path": "inner/b", "device": 1, "inode": "7", "directory": False,
    }  # fmt: skip


def test_a_map_that_collides_shows_its_own() -> None:
    both: Any = live_model(
        reading(
            map="qemu", collisions=[collision(164, file("a"), file("b"), real=True), collision(7, file("c"), file("d"))]
        )
    )
    assert [(one["name"], [each["number"] for each in one["ledger"]["listed"]]) for one in both["schemes"]] == [
        ("raw", ["7"]), ("qemu", ["164"]),
    ]  # fmt: skip
    one: Any = live_model(reading(map="raw", collisions=[collision(7, file("c"), file("d"), real=True)]))
    (raw,) = one["schemes"]
    assert (raw["name"], raw["pairs"]) == ("raw", 1)


def test_collisions_that_are_not_listed_are_counted() -> None:
    full: Any = live_model(reading(collisions=[collision(7, file("a"), file("b"))], left_out=100))
    raw = full["schemes"][0]
    assert (raw["numbers"]["mixed"], raw["files"]["mixed"], raw["ledger"]["left_out"]) == (101, 202, 100)
    assert raw["pairs"] == 101


def test_a_device_anywhere() -> None:
    places: Any = live_model(
        reading(devices=[device("a", "1", ["/"]), device("b", "010", []), device("c", "110", ["/elsewhere"])])
    )
    assert [one["path"] for one in places["devices"]["listed"]] == [".", "(not mounted now)", "."]
