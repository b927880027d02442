"""Rows of a plain directory, with a share that is made of the same directory and does what a test wants of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fusemap.errors import Refused
from fusemap.smb.columns import Beneath, Comparison, Row
from fusemap.smb.share import Entry, Unopened
from fusemap.smb.verdict import judge

GONE = Unopened(True, "OBJECT_NAME_NOT_FOUND")


class FalseShare:
    """What Samba would tell of a directory. `renamed` are names it mangles, `number` makes the ids."""

    address = "//false/share"

    def __init__(self, top: Path) -> None:
        self.top = top
        self.renamed: dict[str, str] = {}
        self.number: Callable[[os.stat_result], int] = lambda st: st.st_ino
        self.refused: dict[str, OSError] = {}
        self.before_opening: list[Callable[[], object]] = []

    def entries(self, name: str) -> list[Entry]:
        if name in self.refused:
            raise self.refused[name]
        directory = self._path(name)
        found = [self._entry(".", directory), self._entry("..", directory.parent)]
        files = [path for path in sorted(directory.iterdir()) if path.exists()]
        return found + [self._entry(self.renamed.get(path.name, path.name), path) for path in files]

    def ids(self, names: Sequence[str]) -> list[int | Unopened]:
        while names != [""] and self.before_opening:
            self.before_opening.pop()()
        return list(map(self._id, names))

    def _id(self, name: str) -> int | Unopened:
        try:
            return self.number(os.stat(self._path(name)))
        except FileNotFoundError:
            return GONE
        except PermissionError:
            return Unopened(False, "ACCESS_DENIED")

    def _entry(self, name: str, path: Path) -> Entry:
        st = os.stat(path)
        stamp = (st.st_mtime_ns, st.st_ctime_ns, st.st_size, st.st_ino)
        return Entry(name, self.number(st), path.is_dir(), stamp)

    def _path(self, name: str) -> Path:
        real = {shown: name for name, shown in self.renamed.items()}
        return self.top.joinpath(*(real.get(part, part) for part in name.split("\\")))


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top" / "a" / "b").mkdir(parents=True)
    for name in ("file", "a/file", "a/b/file"):
        (tmp_path / "top" / name).write_text(name)
    return tmp_path / "top"


@pytest.fixture
def share(top: Path) -> FalseShare:
    return FalseShare(top)


def compared(share: FalseShare, top: Path | None) -> Comparison:
    beneath = None if top is None else Beneath(str(top), lambda _, st: ("disk", st.st_ino), mounted=False)
    found = Comparison(share, beneath, None, lambda _: None)  # type: ignore[arg-type]
    found.walk()
    return found


def by_path(found: Comparison) -> dict[str, Row]:
    rows = list(found.rows())
    assert len({row.path for row in rows}) == len(rows)
    return {row.path: row for row in rows}


@pytest.fixture(params=["with TREE", "without"])
def beneath(request: pytest.FixtureRequest, top: Path) -> Iterator[Path | None]:
    yield top if request.param == "with TREE" else None


def test_everything_has_a_row(share: FalseShare, top: Path, beneath: Path | None) -> None:
    counts: list[int] = []
    found = Comparison(share, beneath and Beneath(str(beneath), lambda *_: None, False), None, counts.append)  # type: ignore[arg-type]
    found.walk()
    rows = by_path(found)
    assert sorted(rows) == [".", "a", "a/b", "a/b/file", "a/file", "file"]
    for path, row in rows.items():
        st = os.stat(top / path)
        assert row.opened == row.listed == st.st_ino
        assert row.st_ino == (st.st_ino if beneath else None)
        assert row.directory == (path in (".", "a", "a/b"))
    assert counts[-1] == 6
    assert judge(rows.values()) == []


def test_the_walk_ends_where_links_lead_round_in_circles(share: FalseShare, top: Path, beneath: Path | None) -> None:
    os.symlink("..", top / "a" / "up")
    os.symlink("../../a", top / "a" / "b" / "other")
    os.symlink(".", top / "self")
    rows = by_path(compared(share, beneath))
    assert len(rows) == 9
    assert judge(rows.values()) == []
    share.number = lambda _: 0
    assert len(by_path(compared(share, beneath))) == 9


def test_links_have_the_number_of_what_they_lead_to(share: FalseShare, top: Path) -> None:
    os.symlink("a/file", top / "link")
    os.symlink("nowhere", top / "dangling")
    found = compared(share, top)
    row = by_path(found)["link"]
    assert row.link
    assert (row.opened, row.target) == (os.stat(top / "link").st_ino,) * 2
    assert row.st_ino == os.lstat(top / "link").st_ino
    assert found.unshown == {".": ["dangling"]}


def test_mangled_names_are_found_by_their_numbers(share: FalseShare, top: Path) -> None:
    odd = os.fsdecode(b"odd \xff")
    (top / odd).mkdir()
    (top / odd / "col:on").touch()
    share.renamed = {odd: "ODD~1", "col:on": "C~2"}
    found = compared(share, top)
    rows = by_path(found)
    assert {path: row.shown for path, row in rows.items() if row.shown} == {odd: "ODD~1", f"{odd}/col:on": "C~2"}
    assert judge(rows.values()) == []
    assert found.unshown == {}
    share.number = lambda st: st.st_ino + 1000  # now nobody knows whose names those are
    found = compared(share, top)
    assert {"ODD~1", "ODD~1/C~2"} <= by_path(found).keys()
    assert found.unshown["."] == [odd]


def test_what_goes_away_is_counted(share: FalseShare, top: Path) -> None:
    share.before_opening = [(top / "file").unlink]
    found = compared(share, None)
    assert "file" not in by_path(found)
    assert found.vanished == 1


def test_a_directory_that_goes_away(share: FalseShare, top: Path, beneath: Path | None) -> None:
    share.refused = {"a": FileNotFoundError(errno.ENOENT, "gone")}
    found = compared(share, beneath)
    assert sorted(by_path(found)) == [".", "a", "file"]
    assert (found.vanished, found.unreadable) == (1, {})


def test_what_is_not_to_be_read_is_named(share: FalseShare, top: Path, beneath: Path | None) -> None:
    share.refused = {"a": PermissionError(errno.EACCES, "Permission denied")}
    found = compared(share, beneath)
    assert sorted(by_path(found)) == [".", "a", "file"]
    assert (found.vanished, found.unreadable) == (0, {"a": "Permission denied"})


def test_a_root_that_is_not_to_be_read_is_refused(share: FalseShare, top: Path) -> None:
    share.refused = {"": PermissionError(errno.EACCES, "Permission denied")}
    with pytest.raises(Refused, match="cannot be listed: Permission denied"):
        compared(share, top)


def test_a_file_that_is_replaced_meanwhile_is_not_wrong(share: FalseShare, top: Path) -> None:
    def replace() -> None:
        (top / "new").touch()
        os.rename(top / "new", top / "file")

    share.before_opening = [replace]
    found = compared(share, top)
    assert judge(found.rows()) == []
    assert found.vanished == 1
    assert "file" not in by_path(found)


def test_without_tree_a_second_look_tells(share: FalseShare, top: Path) -> None:
    def replace() -> None:
        (top / "new").touch()
        os.rename(top / "new", top / "file")

    share.before_opening = [replace]
    found = compared(share, None)
    (wrong,) = judge(found.rows())
    assert (wrong.kind, wrong.paths) == ("differs", ("file",))
    found.look_again(wrong.paths)
    assert judge(found.rows()) == []
    assert len(by_path(found)) == 6


def test_what_is_wrong_stays_wrong(share: FalseShare, top: Path, beneath: Path | None) -> None:
    share.number = lambda st: 5 if st.st_size == len("a/file") else st.st_ino
    os.truncate(top / "file", len("a/file"))
    found = compared(share, beneath)
    for _ in range(2):
        wrong = judge(sorted(found.rows()))
        assert ("duplicate", ("a/file", "file")) in {(each.kind, each.paths) for each in wrong}
        found.look_again({path for each in wrong for path in each.paths})
    assert len(by_path(found)) == 6


def test_a_tree_that_is_another_one(share: FalseShare, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "x").touch()
    with pytest.raises(Refused, match="have no name in common"):
        compared(share, tmp_path / "else")


def test_an_empty_share(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    share = FalseShare(tmp_path / "empty")
    assert list(by_path(compared(share, tmp_path / "empty"))) == ["."]


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_tree_that_is_none(top: Path, name: str) -> None:
    with pytest.raises(Refused, match=name):
        Beneath(str(top / name), lambda *_: None, mounted=False)
