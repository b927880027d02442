"""One row for every file, one column for each way of asking which file it is.

    host      device and inode of the file beneath          asked of TREE, where the share is on this machine
    st_ino    what stat(2) says in TREE                     likewise
    opened    the id by opening the file (FileInternalInformation)          asked of the share
    listed    the id in the directory's listing                             likewise
    qid       the path of the QID by walking to the file    asked of a 9P server of the same tree, where there is one

A directory is looked at by all of them before the next one, so that what belongs together is asked for within moments.
A file may be replaced in such a moment all the same. So TREE is asked first, and where the others say otherwise, once
more at the end: a file that has another number by then was replaced, and counts as gone. Where there is no TREE, rows
that do not look right are made anew once, directory by directory, before anybody is told.

Samba shows a symbolic link as what it leads to, or not at all. Its row has the link's own st_ino and QID, and in
`target` the st_ino of what it leads to, with which the share's ids are compared.

Names are those that TREE has. The share shows some of them otherwise, or mangled: what is no UTF-8, and what Windows
could not write. Such an entry belongs to the one file of the directory that is left over and has its number.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from fusemap.errors import Refused
from fusemap.p9.client import Client
from fusemap.qid import QTDIR, QTSYMLINK
from fusemap.smb.share import Entry, Share, Unopened

TOP: Final = "."
"""The path of the share's root; all others are relative to it, with slashes."""

HostOf: TypeAlias = Callable[[str, os.stat_result], "tuple[str, int] | None"]
"""Device and inode of the file beneath, by its path in TREE and what lstat says of it; None where that is not known."""


class Row(NamedTuple):
    """A file. What was not asked, or could not be told, is None."""

    path: str
    directory: bool = False
    link: bool = False
    host: tuple[str, int] | None = None
    st_ino: int | None = None
    st_dev: int | None = None
    target: int | None = None
    opened: int | None = None
    listed: int | None = None
    qid: int | None = None
    qid_listed: int | None = None
    stamp: tuple[int, ...] | None = None
    shown: str | None = None  # the share's name for it, where that is another one


class Below(NamedTuple):
    """A file of TREE."""

    st: os.stat_result
    target: os.stat_result | None
    host: tuple[str, int] | None


class Beneath:
    """TREE: what the share shows, as this machine sees it, a fusemap mount or not. Raises Refused."""

    def __init__(self, top: str, host_of: HostOf, mounted: bool) -> None:
        self.top: Final = top
        self.mounted: Final = mounted
        self._host_of = host_of
        try:
            self.st: Final = os.stat(top)
        except OSError as error:
            raise Refused(f"{top}: {error.strerror}") from error
        if not stat.S_ISDIR(self.st.st_mode):
            raise Refused(f"{top} is not a directory: name the mount beneath the share, or the directory that it shows")

    def look(self, path: str) -> Below | None:
        """The file at `path`; None when it is not there. Raises OSError."""
        where = self.top if path == TOP else os.path.join(self.top, path)
        try:
            st = self.st if path == TOP else os.lstat(where)
        except (FileNotFoundError, NotADirectoryError):
            return None
        target = _target(where) if stat.S_ISLNK(st.st_mode) else None
        return Below(st, target, self._host_of(where, st))

    def keeps(self, path: str, file: Below) -> bool:
        """Whether the file at `path` is still the one that was looked at."""
        where = self.top if path == TOP else os.path.join(self.top, path)
        try:
            if os.lstat(where).st_ino != file.st.st_ino:
                return False
            target = _target(where) if stat.S_ISLNK(file.st.st_mode) else None
        except OSError:
            return False
        return (target and target.st_ino) == (file.target and file.target.st_ino)

    def names(self, path: str) -> list[str]:
        """The names in a directory. Raises OSError."""
        return os.listdir(self.top if path == TOP else os.path.join(self.top, path))


def _target(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


class Comparison:
    """All rows, and what is to be said of those that are not there. `progress` is told how many there are."""

    def __init__(
        self, share: Share, beneath: Beneath | None, served: Client | None, progress: Callable[[int], None]
    ) -> None:
        self.beneath: Final = beneath
        self.served: Final = served
        self.vanished = 0
        self.unreadable: dict[str, str] = {}
        self.unshown: dict[str, list[str]] = {}
        self._share = share
        self._progress = progress
        self._rows: dict[str, list[Row]] = {}  # by directory
        self._shown: dict[str, str] = {}  # the share's path of each directory
        self._count = 0

    def rows(self) -> Iterator[Row]:
        """Every row."""
        for rows in self._rows.values():
            yield from rows

    def walk(self) -> None:
        """Makes the rows. Raises Refused when the share, TREE or the server ends the conversation."""
        todo: list[tuple[str, str]] = [(TOP, "")]
        entered: set[object] = set()
        while todo:
            path, shown = todo.pop()
            for row, name in self._look(path, shown):
                if self._enters(row, entered) and row.path != TOP:
                    todo.append((row.path, f"{shown}\\{name}" if shown else name))

    def look_again(self, paths: Iterable[str]) -> None:
        """Makes the rows of these files anew, with those of their directories."""
        for directory in {_parent(path) for path in paths}:
            self._count -= len(self._rows[directory])
            self._look(directory, self._shown[directory])

    def _enters(self, row: Row, entered: set[object]) -> bool:
        """Whether the walk goes on in this directory: not through symbolic links, which may lead round in circles.

        Where nobody can tell a link from a directory, a directory that looks like one that was entered is left out.
        """
        if not row.directory:
            return False
        if row.st_ino is None and row.qid is None:
            looks = (row.opened, row.stamp)
            if looks in entered:
                return False
            entered.add(looks)
        return True

    def _look(self, path: str, shown: str) -> list[tuple[Row, str]]:
        """The rows of a directory with the share's names, the root's own first."""
        self._rows[path] = []
        self._shown[path] = shown
        self.unshown.pop(path, None)
        below = self._below(path)
        try:
            entries = {entry.name: entry for entry in self._share.entries(shown)}
        except OSError as error:
            if path == TOP:
                raise Refused(f"{self._share.address} cannot be listed: {error.strerror}") from error
            self._missing(path, error)
            return []
        itself = entries.pop(".", None)
        entries.pop("..", None)
        names = _paired(entries, below) if below is not None else {name: name for name in entries}
        if path == TOP and entries and below and not names.keys() & below.keys():
            assert self.beneath is not None
            raise Refused(
                f"{self._share.address} and {self.beneath.top} have no name in common: name the directory that the "
                "share shows"
            )
        found = self._rows_of(path, shown, names, entries, below or {})
        if path == TOP:
            found.insert(0, (self._top(itself), ""))
        if below:
            unshown = sorted(below.keys() - names.keys())
            if unshown:
                self.unshown[path] = unshown
        self._rows[path] = [row for row, _ in found]
        self._count += len(found)
        self._progress(self._count)
        return found

    def _rows_of(
        self, path: str, shown: str, names: dict[str, str], entries: dict[str, Entry], below: dict[str, Below]
    ) -> list[tuple[Row, str]]:
        prefix = f"{shown}\\" if shown else ""
        opened = self._share.ids([prefix + name for name in names.values()])
        walked, listed = self._served(path, list(names))
        rows = []
        for (name, seen), number in zip(names.items(), opened, strict=True):
            entry, file, qid = entries[seen], below.get(name), walked.get(name)
            row = Row(
                path=name if path == TOP else f"{path}/{name}",
                directory=entry.directory,
                listed=entry.number,
                stamp=entry.stamp,
                shown=seen if seen != name else None,
                qid_listed=listed.get(name),
            )
            if qid is not None:
                row = row._replace(qid=qid[1], link=qid[0] == QTSYMLINK, directory=qid[0] == QTDIR)
            if file is not None:
                row = _with(row, file)
            if isinstance(number, Unopened):
                if number.gone and file is None:
                    self.vanished += 1
                    continue
                if not number.gone:
                    self.unreadable[row.path] = number.reason
            else:
                row = row._replace(opened=number)
            if file is not None and self.beneath is not None and _odd(row) and not self.beneath.keeps(row.path, file):
                self.vanished += 1
                continue
            rows.append((row, seen))
        return rows

    def _top(self, itself: Entry | None) -> Row:
        (opened,) = self._share.ids([""])
        row = Row(TOP, directory=True, opened=None if isinstance(opened, Unopened) else opened)
        if itself is not None:
            row = row._replace(listed=itself.number, stamp=itself.stamp)
        if self.served is not None:
            row = row._replace(qid=self.served.root_qid.path)
        if self.beneath is not None:
            file = self.beneath.look(TOP)
            if file is not None:
                row = _with(row, file)
        return row

    def _below(self, path: str) -> dict[str, Below] | None:
        if self.beneath is None:
            return None
        found = {}
        try:
            for name in self.beneath.names(path):
                where = name if path == TOP else f"{path}/{name}"
                try:
                    file = self.beneath.look(where)
                except OSError as error:
                    self._missing(where, error)
                else:
                    if file is not None:
                        found[name] = file
        except OSError as error:
            self._missing(path, error)
        return found

    def _served(self, path: str, names: Sequence[str]) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
        """By name: type and path of the QID by walking there, and the path that the directory's listing gives."""
        if self.served is None:
            return {}, {}
        parts = [] if path == TOP else [os.fsencode(part) for part in path.split("/")]
        try:
            fid, _ = self.served.walk(self.served.root, parts)
        except OSError as error:
            self._missing(path, error)
            return {}, {}
        try:
            listed = {os.fsdecode(entry.name): entry.qid.path for entry in self.served.entries(fid)}
            asked = [name for name in names if name in listed]
            qids = self.served.qids(fid, [os.fsencode(name) for name in asked])
        except OSError as error:
            self._missing(path, error)
            return {}, {}
        finally:
            self.served.clunk([fid])
        walked = {}
        for name, qid in zip(asked, qids, strict=True):
            if not isinstance(qid, OSError):
                walked[name] = (qid.type, qid.path)
            elif qid.errno != errno.ENOENT:
                self.unreadable[name if path == TOP else f"{path}/{name}"] = qid.strerror or str(qid)
        return walked, listed

    def _missing(self, path: str, error: OSError) -> None:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            self.vanished += 1
        else:
            self.unreadable[path] = error.strerror or str(error)


def _with(row: Row, file: Below) -> Row:
    """The row with what TREE says of the file."""
    return row._replace(
        directory=stat.S_ISDIR(file.st.st_mode),
        link=stat.S_ISLNK(file.st.st_mode),
        host=file.host,
        st_ino=file.st.st_ino,
        st_dev=file.st.st_dev,
        target=file.target.st_ino if file.target and file.target.st_dev == file.st.st_dev else None,
    )


def _odd(row: Row) -> bool:
    """Whether somebody says otherwise than TREE."""
    due = row.target if row.link else row.st_ino
    return any(
        number not in (None, right)
        for number, right in ((row.opened, due), (row.listed, due), (row.qid, row.st_ino), (row.qid_listed, row.st_ino))
    )


def _paired(entries: dict[str, Entry], below: dict[str, Below]) -> dict[str, str]:
    """The share's names by those of TREE, where there is one, otherwise by themselves."""
    names = {name: name for name in entries if name in below}
    left: dict[int, list[str]] = {}
    for name in below.keys() - names.keys():
        number = (below[name].target or below[name].st).st_ino
        left.setdefault(number, []).append(name)
    for seen in entries.keys() - names.keys():
        candidates = left.get(entries[seen].number, [])
        name = candidates.pop() if candidates else seen
        names[name] = seen
    return names


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or TOP
