"""Files whose inode number the host gave to another file while a client still knew them.

The later file has the number of the former one and is another node, so that whoever holds the former node - a fid, an
open file, a kernel's inode - never reaches the later file by it: what is gone stays ESTALE. The tree's number leads to
the later node from the moment that this is met. Where no client is told of it after all, as when a listing has no room
for the entry, the number means the former file again, to whoever asks by number.
"""

from __future__ import annotations

from fusemap.tree.node import Node


class Former:
    """The nodes that had the number of a node before it and are still known to a client, the latest first."""

    def __init__(self) -> None:
        self._of: dict[Node, tuple[Node, ...]] = {}

    def replaced(self, node: Node, later: Node) -> None:
        """The number of `node` is that of `later` now."""
        before = _known((node, *self._of.pop(node, ())))
        if before:
            self._of[later] = before

    def again(self, later: Node) -> Node | None:
        """Nobody knows `later` any more: the node to which its number leads again, None where there is none."""
        before = _known(self._of.pop(later, ()))
        if not before:
            return None
        if before[1:]:
            self._of[before[0]] = before[1:]
        return before[0]

    def take(self, later: Node) -> tuple[Node, ...]:
        """Those before `later`, which are told of no more."""
        return self._of.pop(later, ())


def _known(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple(node for node in nodes if node.lookups > 0)
