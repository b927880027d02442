"""Attributes of an exported file that say where it is on the host.

They can be read by name and are not listed, so that no tool copies them:

user.fusemap.device     the device's identity
user.fusemap.inode      the inode number there
user.fusemap.qid        its number in the exported tree
user.fusemap.locate.N   on the root: which device and inode the number N stands for, as JSON
"""

from __future__ import annotations

import errno
import json
import os
from typing import Final

from fusemap.tree.attributes import OWN_PREFIX
from fusemap.tree.live import Tree
from fusemap.tree.node import Node

VIRTUAL_PREFIX: Final = OWN_PREFIX
_LOCATE: Final = b"locate."


def virtual(tree: Tree, node: Node, name: bytes) -> bytes:
    """The value of a virtual attribute. Raises OSError, ENODATA for an unknown one or a number that was never given."""
    word = name[len(VIRTUAL_PREFIX) :]
    if word == b"device":
        return node.device.key.encode()
    if word == b"inode":
        return b"%d" % node.inode
    if word == b"qid":
        return b"%d" % node.number
    if word.startswith(_LOCATE) and node is tree.root and word[len(_LOCATE) :].isdigit():
        try:
            return json.dumps(_locate(tree, int(word[len(_LOCATE) :]))).encode()
        except (LookupError, ValueError):  # int() takes no more than some thousand digits
            pass
    raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))


def _locate(tree: Tree, number: int) -> dict[str, object]:
    key, inode = tree.mapper.locate(number)
    return {"number": number, "device": str(key), "inode": inode}
