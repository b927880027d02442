"""Fids: the client's numbers for files it holds.

A fid's identity is its node, never a path: whatever is renamed or removed meanwhile, it stays the same file. Beside
that it remembers its place, the directory and name under which it was reached, because three messages name a file by
its fid alone and mean a name (remove, rename, wstat). A place is one object for all fids that were reached by it, so
that a rename through the server moves them all at once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from fusemap.tree import Directory, Node
from fusemap.tree.data import OpenFile

if TYPE_CHECKING:
    from fusemap.p9.model import User


ATTRIBUTE_COST: Final = 256  # of an attribute fid beside its value


class Place:
    """Where a file was found; `name` is empty once it is not there any more."""

    __slots__ = ("name", "parent", "users")

    def __init__(self, parent: Node, name: bytes) -> None:
        self.parent = parent
        self.name = name
        self.users = 0


class Attribute:
    """An extended attribute that is read, or written and set at clunk (`node` is then whose it will be)."""

    __slots__ = ("data", "flags", "name", "size", "written")

    def __init__(self, data: bytes, name: bytes = b"", size: int = -1, flags: int = 0) -> None:
        self.data = bytearray(data)
        self.name = name
        self.size = size  # announced bytes, -1 for one that is read
        self.flags = flags
        self.written = 0

    def weight(self) -> int:
        """Bytes that it may take."""
        return ATTRIBUTE_COST + max(self.size, len(self.data) if self.size < 0 else 0)


class File(OpenFile):
    """An open file; its descriptor is closed when nobody in a worker thread uses it any more."""

    __slots__ = ("closing", "readable", "users", "writable")

    def __init__(self, node: Node, fd: int, flags: int, account: object) -> None:
        super().__init__(node, fd, flags, account)  # type: ignore[arg-type]
        mode = flags & os.O_ACCMODE
        self.readable: Final = mode != os.O_WRONLY
        self.writable: Final = mode in (os.O_WRONLY, os.O_RDWR)
        self.users = 0
        self.closing = False


class Listing(Directory):
    """An open directory; 9P2000 and .u read it as a stream of bytes, whose next offset is `offset`.

    `asked` is how many bytes the last reading asked for.
    """

    cookie = 0
    offset = 0
    asked = 0


class Fid:
    """A client's fid. `root` is where it was attached, above which it does not climb; `user` is who attached it.

    `answered` is the last answer to a getattr, with all that it followed from: see getattr_frame() in fast.py.
    """

    __slots__ = ("answered", "io", "locked", "node", "place", "remove_at_clunk", "root", "user")

    def __init__(self, node: Node, root: Node, user: User, place: Place | None) -> None:
        self.node = node
        self.root = root
        self.user = user
        self.place = place
        self.io: File | Listing | Attribute | None = None
        self.locked = False
        self.remove_at_clunk = False
        self.answered: tuple[int, int, int, bytes, bytes] | None = None


class Places:
    """The places of all fids of one export."""

    def __init__(self) -> None:
        self._places: dict[tuple[Node, bytes], Place] = {}

    def take(self, parent: Node, name: bytes) -> Place:
        """The place, used by one more; `parent` is kept known as long."""
        key = (parent, name)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(parent, name)
            parent.lookups += 1
        place.users += 1
        return place

    def known(self, parent: Node, name: bytes) -> bool:
        """Whether a fid was reached there."""
        return (parent, name) in self._places

    def give_back(self, place: Place) -> Node | None:
        """Used by one less; the parent, when that is not needed any more and is to be forgotten."""
        place.users -= 1
        if place.users:
            return None
        if self._places.get((place.parent, place.name)) is place:
            del self._places[place.parent, place.name]
        return place.parent

    def removed(self, parent: Node, name: bytes) -> None:
        """The name is gone or means another file from now on."""
        place = self._places.pop((parent, name), None)
        if place is not None:
            place.name = b""

    def renamed(self, old_parent: Node, old: bytes, new_parent: Node, new: bytes) -> Node | None:
        """What was at one place is at another; like `give_back`, a parent that may have to be forgotten."""
        if (old_parent, old) == (new_parent, new):
            return None
        self.removed(new_parent, new)
        place = self._places.pop((old_parent, old), None)
        if place is None:
            return None
        place.parent, place.name = new_parent, new
        self._places[new_parent, new] = place
        new_parent.lookups += 1
        return old_parent
