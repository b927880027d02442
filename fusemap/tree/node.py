"""A node: one file of the exported tree, as long as a client knows it.

A node is found again by its file handle, or, where the file system has none or the server may not use them, by its
parent and name; either way what is found must be the same device, inode and generation, or the answer is ESTALE. There
is one object for each of a million files, so it is slotted and keeps no path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusemap.host.calls import Handle

if TYPE_CHECKING:
    from fusemap.tree.filesystems import Device, Mount


class Node:
    """A known host file.

    number      its 64-bit QID path, unique in the tree
    device      which file system it is on, and `inode` there
    mount       through which mount it was found last
    handle      its file handle, None where the file system gives none
    generation  the host inode's generation, 0 where it cannot be told
    kind        the file type bits of st_mode (S_IFMT)
    unchanged   the ctime (ns) under which it was proved to be this file, 0 where that is too fresh (see Tree.entry)
    place       parent node and name; kept only where handles cannot be opened
    lookups     how often a client was told of it and has not forgotten it since (FUSE's look-up count)
    """

    __slots__ = ("device", "generation", "handle", "inode", "kind", "lookups", "mount", "number", "place", "unchanged")

    def __init__(
        self, number: int, device: Device, mount: Mount, inode: int, kind: int, handle: Handle | None, generation: int
    ) -> None:
        self.number = number
        self.device = device
        self.mount = mount
        self.inode = inode
        self.kind = kind
        self.handle = handle
        self.generation = generation
        self.place: tuple[Node, bytes] | None = None
        self.lookups = 0
        self.unchanged = 0

    def __repr__(self) -> str:
        return f"<Node {self.number} = {self.device} inode {self.inode} generation {self.generation}>"
