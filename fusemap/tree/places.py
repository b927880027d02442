"""Where a known file lies in the tree, for people: for logs, listings and pictures, never for reaching it.

A node keeps no path. The kernel does, for as long as its cache of names holds the file, and tells it of an open
descriptor (proc_pid_fd(5)). A file that was opened by its handle after the cache has dropped it has none there, so what
the kernel says is believed only if the very file is found at it.
"""

from __future__ import annotations

import os

from fusemap.host.mountinfo import contains
from fusemap.tree.live import Tree
from fusemap.tree.node import Node


def path_of(tree: Tree, node: Node) -> bytes | None:
    """A path of `node` relative to the tree's root, b"." for that itself; None where it cannot be told now."""
    if node is tree.root:
        return b"."
    top = tree.source
    try:
        path = os.readlink(tree.proc(node))
        if not contains(top, path):
            return None
        st = tree.calls.statx(-100, path)  # AT_FDCWD; a symbolic link is not followed
    except OSError:  # gone, or renamed at this moment
        return None
    device = node.device
    if (st.ino, st.dev_major, st.dev_minor) != (node.inode, device.major, device.minor):
        return None
    return path[len(top.rstrip(b"/")) + 1 :]


def path_below(tree: Tree, directory: Node, name: bytes) -> bytes | None:
    """As `path_of`, for the file `name` in a directory."""
    above = path_of(tree, directory)
    return None if above is None else name if above == b"." else above + b"/" + name
