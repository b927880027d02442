"""Extended attributes of nodes (xattr(7)).

The tables of numbers that lie in attributes of the root, ours and those of QEMU's patches, are not there for clients:
they could read of devices that are none of their business, or forge numbers.

The rest are reached through /proc/self/fd, since the calls that take a descriptor refuse O_PATH. POSIX ACLs are set by
the caller's own identity: the host then clears the set-group-id bit where the caller is not of the file's group
(acl(5)).
"""

from __future__ import annotations

import errno
import os
from typing import Final

from fusemap.host.creds import Caller
from fusemap.tree.changes import acting
from fusemap.tree.live import Tree
from fusemap.tree.node import Node

OWN_PREFIX: Final = b"user.fusemap."
_TABLE_PREFIXES: Final = (OWN_PREFIX, b"user.virtfs.system.")
_ACL: Final = b"system.posix_acl_"


def get(tree: Tree, node: Node, name: bytes, by: Caller | None = None) -> bytes:
    """getxattr(2). Raises OSError, ENODATA when it is not there."""
    if _is_table(tree, node, name):
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    path = tree.proc(node)
    with acting(tree, by):
        return os.getxattr(path, name)


def put(
    tree: Tree, node: Node, name: bytes, value: bytes, caller: Caller, flags: int = 0, by: Caller | None = None
) -> None:
    """setxattr(2), `flags` being 0, XATTR_CREATE or XATTR_REPLACE. Raises OSError."""
    _refuse_table(tree, node, name)
    path = tree.proc(node)
    with acting(tree, caller if name.startswith(_ACL) else by):
        os.setxattr(path, name, value, flags)


def remove(tree: Tree, node: Node, name: bytes, by: Caller | None = None) -> None:
    """removexattr(2). Raises OSError, ENODATA when it is not there."""
    _refuse_table(tree, node, name)
    path = tree.proc(node)
    with acting(tree, by):
        os.removexattr(path, name)


def names(tree: Tree, node: Node, caller: Caller) -> list[bytes]:
    """listxattr(2) as `caller` would see it: trusted.* is for root alone, our own for nobody. Raises OSError."""
    found = [os.fsencode(name) for name in os.listxattr(tree.proc(node))]
    found = [name for name in found if not name.startswith(OWN_PREFIX) and not _is_table(tree, node, name)]
    if caller.uid != 0:
        found = [name for name in found if not name.startswith(b"trusted.")]
    return found


def _is_table(tree: Tree, node: Node, name: bytes) -> bool:
    return node is tree.root and name.startswith(_TABLE_PREFIXES)


def _refuse_table(tree: Tree, node: Node, name: bytes) -> None:
    if _is_table(tree, node, name):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
