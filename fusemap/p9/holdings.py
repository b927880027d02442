"""What a client holds: its fids, with the look-ups, places, descriptors and attributes that hang on them."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import Final

from fusemap.p9 import control
from fusemap.p9.export import Export
from fusemap.p9.fids import Attribute, Fid, File, Listing
from fusemap.tree import Node
from fusemap.tree.live import LONG_REMOVAL_BLOCKS

FIDS: Final = 1 << 18
ATTRIBUTE_BYTES: Final = 1 << 24  # of extended attributes that are being read or written


class Holdings:
    """A client's fids."""

    def __init__(self, export: Export) -> None:
        self.export: Final = export
        self.tree: Final = export.tree
        self.fids: dict[int, Fid] = {}
        self.control: dict[int, control.ControlFid] = {}
        self._attribute_bytes = 0

    def fid(self, number: int) -> Fid:
        """The client's fid. Raises OSError, EBADF for one that it does not have."""
        try:
            return self.fids[number]
        except KeyError:
            raise self._missing_fid(number) from None

    def new_fid(self, number: int, fid: Fid) -> None:
        """Gives the client a fid, whose node's look-up count was raised for it. Raises OSError: EINVAL, EMFILE."""
        in_use = number in self.fids or number in self.control
        if in_use or len(self.fids) >= FIDS:
            self.forget(fid.node)
            raise OSError(errno.EINVAL if in_use else errno.EMFILE, "fid in use" if in_use else "too many fids")
        if fid.place is not None:
            fid.place = self.export.places.take(fid.place.parent, fid.place.name)
        if fid.root is not self.tree.root:  # to be found again as the same node, where ".." ends
            fid.root.lookups += 1
        self.fids[number] = fid
        self.export.statistics.fids += 1

    def drop_fid(self, number: int) -> Fid:
        """Takes a fid from the client, who may use the number again. Its file is not closed. Raises OSError, EBADF."""
        fid = self.fids.pop(number, None)
        if fid is None:
            raise self._missing_fid(number)
        self.export.statistics.fids -= 1
        if fid.locked:
            self.export.locks.release_fid(self, fid)
        return fid

    def let_go(self, fid: Fid) -> int | None:
        """Forgets a dropped fid's node and place; a descriptor whose closing takes time, or None."""
        if fid.place is not None:
            parent = self.export.places.give_back(fid.place)
            if parent is not None:
                self.forget(parent)
        if fid.root is not self.tree.root:
            self.forget(fid.root)
        return self.tree.forget(fid.node)

    def end(self, fid: Fid) -> None:
        """Closes and forgets all that a dropped fid holds, at once."""
        for part in (self.shut, self.let_go):
            with contextlib.suppress(OSError):  # whoever could be told has gone, or is told of another error
                fd = part(fid)
                if fd is not None:
                    close_quietly(fd)

    def forget(self, node: Node) -> None:
        """Takes one look-up back."""
        fd = self.tree.forget(node)
        if fd is not None:
            close_quietly(fd)

    def shut(self, fid: Fid) -> int | None:
        """Closes a fid's open file or directory; a descriptor that is left to close in a thread, or None."""
        io, fid.io = fid.io, None
        if isinstance(io, Attribute):
            self._attribute_bytes -= io.weight()
        elif isinstance(io, Listing):
            io.close()
        elif isinstance(io, File):
            self.tree.closed(io.node, io.fd)
            if io.users:
                io.closing = True
            else:
                return io.fd
        return None

    def hold_attribute(self, fid: Fid, attribute: Attribute) -> None:
        """The fid is an attribute's from now on. Raises OSError, ENOSPC, when the client holds too much of them."""
        size = attribute.weight()
        if self._attribute_bytes + size > ATTRIBUTE_BYTES:
            raise OSError(errno.ENOSPC, "too many attributes at once")
        self._attribute_bytes += size
        fid.io = attribute

    def _missing_fid(self, number: int) -> OSError:
        return control.Asked() if number in self.control else OSError(errno.EBADF, "no such fid")


def close_quietly(fd: int) -> None:
    """Closes a descriptor where nobody waits for it or is left to be told of an error."""
    with contextlib.suppress(OSError):
        st = os.fstat(fd)
        if not st.st_nlink and st.st_blocks > LONG_REMOVAL_BLOCKS:  # which frees them, maybe for seconds
            threading.Thread(target=os.close, args=(fd,), name="fusemap closing", daemon=True).start()
        else:
            os.close(fd)
