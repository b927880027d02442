"""Extended attributes of nodes (xattr(7)).

They are reached through /proc/self/fd, since the calls that take a descriptor refuse O_PATH. POSIX ACLs are set by the
caller's own identity: the host then clears the set-group-id bit where the caller is not of the file's group (acl(5)).
"""

from __future__ import annotations

import os
from typing import Final

from fusemap.host.creds import Caller
from fusemap.tree.live import Tree
from fusemap.tree.node import Node

OWN_PREFIX: Final = b"user.fusemap."
_ACL: Final = b"system.posix_acl_"


def get(tree: Tree, node: Node, name: bytes) -> bytes:
    """getxattr(2). Raises OSError, ENODATA when it is not there."""
    return os.getxattr(tree.proc(node), name)


def put(tree: Tree, node: Node, name: bytes, value: bytes, caller: Caller) -> None:
    """setxattr(2), creating or replacing. Raises OSError."""
    path = tree.proc(node)
    if name.startswith(_ACL):
        with tree.identity.of(caller):
            os.setxattr(path, name, value)
    else:
        os.setxattr(path, name, value)


def remove(tree: Tree, node: Node, name: bytes) -> None:
    """removexattr(2). Raises OSError, ENODATA when it is not there."""
    os.removexattr(tree.proc(node), name)


def names(tree: Tree, node: Node, caller: Caller) -> list[bytes]:
    """listxattr(2) as `caller` would see it: trusted.* is for root alone, our own for nobody. Raises OSError."""
    found = [os.fsencode(name) for name in os.listxattr(tree.proc(node))]
    found = [name for name in found if not name.startswith(OWN_PREFIX)]
    if caller.uid != 0:
        found = [name for name in found if not name.startswith(b"trusted.")]
    return found
