"""fusemap scan --html and --png: what is written where, and what is refused before the walk."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from fusemap.cli import pictures
from fusemap.errors import Refused

from ..support import needs
from ..support.command import fusemap, one_sentence, refused
from ..support.process import User, attempt, call_as
from ..support.stage import FUSEMAP, Stage


@pytest.fixture
def tree(stage: Stage) -> Path:
    top = stage.tmpfs("tree")
    stage.tmpfs("tree/inner")
    for place in (top, top / "inner"):
        (place / "one").touch()
    return top


def model_in(text: str) -> Any:
    match = re.search(r'<script type="application/json" id="model">(.*?)</script>', text, re.DOTALL)
    assert match
    return json.loads(match[1])


def test_page_and_picture_are_written_beside_the_report(tree: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("PIL") is None:
        needs.missing("Pillow is not installed")
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    done = fusemap("scan", tree, "--html", page, "--png", picture)
    assert (done.returncode, done.stderr) == (1, "")
    assert "raw: 2 of 4 files" in done.stdout
    assert "Collisions of xor" not in done.stdout  # the page has all schemes; the report and the status go by --map
    assert sorted(os.listdir(tmp_path)) == ["page.html", "picture.png"]
    found = model_in(page.read_text())
    assert found["root"] == str(tree)
    assert found["files"] == 4
    assert {scheme["name"]: sum(scheme["files"].values()) for scheme in found["schemes"]}["raw"] == 2
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_file_is_replaced_whole_and_keeps_its_mode(tree: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    page.chmod(0o600)
    before = page.stat().st_ino
    (tmp_path / "link").symlink_to("page.html")
    done = fusemap("scan", tree, "--json", "--map", "suffix", "--html", tmp_path / "link")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["collisions"] == {"suffix": []}
    assert (tmp_path / "link").is_symlink()
    assert page.stat().st_ino != before
    assert page.stat().st_mode & 0o7777 == 0o600
    assert model_in(page.read_text())["files"] == 4


def test_standard_output_takes_the_place_of_the_report(tree: Path) -> None:
    done = fusemap("scan", tree, "--html", "-")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("<!DOCTYPE html>")
    assert done.stdout.endswith("</html>\n")
    assert model_in(done.stdout)["files"] == 4


def test_a_page_in_the_tree_is_no_part_of_the_census(tree: Path) -> None:
    needs.tools("script")
    words = " ".join([*FUSEMAP, "scan", str(tree), "--html", str(tree / "page.html")])
    done = attempt("script", "-qec", words, "/dev/null")
    assert "drawing" in done.stdout  # progress, since that is a terminal
    assert model_in((tree / "page.html").read_text())["names"] == 4
    assert sorted(os.listdir(tree)) == ["inner", "one", "page.html"]


def test_a_full_disk_leaves_the_old_file(tree: Path, stage: Stage) -> None:
    small = stage.tmpfs("small", "size=16k")
    (small / "page.html").write_text("old")
    done = fusemap("scan", tree, "--html", small / "page.html")
    assert done.returncode == 2
    assert one_sentence(done.stderr)
    assert "No space left" in done.stderr
    assert "raw: " in done.stdout  # the report was worth an hour's walk
    assert os.listdir(small) == ["page.html"]
    assert (small / "page.html").read_text() == "old"


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(fd: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "page.html").write_text("old")
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pictures._write(str(tmp_path / "page.html"), b"new")
    assert os.listdir(tmp_path) == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "old"


def options(html: str | None, png: str | None = None, also_json: bool = False) -> argparse.Namespace:
    return argparse.Namespace(html=html, png=png, json=also_json)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (options("{tmp}/missing/page.html"), "/missing; make it first"),
        (options("{tmp}"), "not a file"),
        (options("{tmp}/new/"), "not a file"),
        (options(""), "not a file"),
        (options("/dev/null"), "not a file"),
        (options("{tmp}/file/page"), "Not a directory"),
        (options("{tmp}/" + "x" * 300), "name too long"),
        (options("-", None, True), "one thing"),
        (options("-", "-"), "one thing"),
        (options("{tmp}/a", "{tmp}/../{name}/a"), "two"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, given: argparse.Namespace, word: str) -> None:
    (tmp_path / "file").write_text("as it was")
    for option in ("html", "png"):
        if getattr(given, option) is not None:
            setattr(given, option, getattr(given, option).format(tmp=tmp_path, name=tmp_path.name))
    with pytest.raises(Refused, match=word) as caught:
        pictures.check(given)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "as it was"


def test_that_is_said_before_the_walk(tmp_path: Path) -> None:
    refused(fusemap("scan", tmp_path / "missing", "--html", "/dev/null"), "cannot write /dev/null")


def test_a_directory_that_is_not_ones_own(stage: Stage) -> None:
    needs.root()
    page = stage.directory("mine") / "page.html"

    def call() -> str:
        try:
            pictures.check(options(str(page)))
        except Refused as why:
            return str(why)
        return ""

    assert "no file can be made" in call_as(User(65534, 65534), call)


def test_a_picture_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"pip install 'fusemap\[png\]'"):
        pictures.check(options(None, str(tmp_path / "picture.png")))
