"""Attributes of an exported file that say where it is on the host, what its number is made of, and what it would be.

They can be read by name, are not listed, so that no tool copies them, and can be neither set nor removed:

user.fusemap.device     the device's identity
user.fusemap.inode      the inode number there
user.fusemap.qid        its QID as 9P shows it: type/version/path, each an unsigned decimal number
user.fusemap.affix      the bits that stand for its device in the number: the last of it, with map prefix the first.
                        Empty with map raw, whose numbers have none
user.fusemap.collides   how many other files have the same inode number on another device, among those that clients know
                        now, or with the maps raw and qemu: how many were shown with the same number. Then, for root and
                        who runs the server, a line for each of these files, at most SHOWN: its path from the tree's
                        root, not UTF-8 or not to be printed characters escaped as in Python, or "-" where it cannot be
                        told
user.fusemap.locate.N   on the root: which device and inode the number N stands for, as JSON

On a mount, the kernel asks us of these for regular files and directories only, and only where the caller may read the
file: that is the rule for all user attributes, and on other files it answers ENODATA itself (xattr_permission() in
fs/xattr.c). 9P has no such rule; there they can be had of any file.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from typing import Final

from fusemap.host.calls import Stat
from fusemap.qid import QID, Mapper, decode, qid_type, version, version_qemu
from fusemap.tree.attributes import OWN_PREFIX
from fusemap.tree.live import Tree
from fusemap.tree.node import Node
from fusemap.tree.places import path_of
from fusemap.tree.shown import Shown

VIRTUAL_PREFIX: Final = OWN_PREFIX
SHOWN: Final = 16
_LOCATE: Final = b"locate."
_SECOND: Final = 1_000_000_000


def virtual(tree: Tree, node: Node, name: bytes, st: Stat, shown: Shown | None = None, names: bool = False) -> bytes:
    """The value of a virtual attribute. Raises OSError, ENODATA for an unknown one or a number that was never given.

    `st` is what the client is told of the file, `shown` whence its number, where that is not the node's own; `names`
    says whether whoever asks may see the names of other files.
    """
    word = name[len(VIRTUAL_PREFIX) :]
    if word == b"device":
        return node.device.key.encode("utf-8", "surrogateescape")
    if word == b"inode":
        return b"%d" % node.inode
    if word == b"qid":
        return b"%d/%d/%d" % qid_of(node, st, shown)
    if word == b"affix":
        return affix_of(tree.mapper if shown is None else shown.mapper, _number(node, shown)).encode()
    if word == b"collides":
        return _collides(tree, node, shown, names)
    if word.startswith(_LOCATE) and node is tree.root and word[len(_LOCATE) :].isdigit():
        try:
            return json.dumps(_locate(tree, int(word[len(_LOCATE) :]))).encode()
        except (LookupError, ValueError):  # int() takes no more than some thousand digits
            pass
    raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))


def qid_of(node: Node, st: Stat, shown: Shown | None) -> QID:
    """The QID of a file of which clients are told `st`. Raises MappingExhausted."""
    if shown is not None and shown.mode == "qemu":
        stamp = version_qemu(st.mtime_s, st.size)
    else:
        stamp = version(st.mtime_s * _SECOND + st.mtime_ns, st.ctime_s * _SECOND + st.ctime_ns, st.size)
    return QID(qid_type(st.mode), stamp, _number(node, shown))


def affix_of(mapper: Mapper, number: int) -> str:
    """The affix of a number that `mapper` has given, in binary digits; "" in mode raw.

    >>> affix_of(Mapper(), 25), affix_of(Mapper(), 98), affix_of(Mapper("prefix"), 1 << 48 | 12)
    ('1', '010', '0000000000000001')
    """
    if mapper.mode == "raw":
        return ""
    if mapper.mode == "prefix":
        return f"{number >> 48:016b}"
    _, length = decode(number, mapper.k)
    return f"{number & (1 << length) - 1:0{length}b}"


def _number(node: Node, shown: Shown | None) -> int:
    return node.number if shown is None else shown.number(node.device.key, node.inode)


def _collides(tree: Tree, node: Node, shown: Shown | None, names: bool) -> bytes:
    if shown is None:
        others = list(_same_inode(tree, node))
        count, paths = len(others), (path_of(tree, other) for other in others[:SHOWN])
    else:
        owners = shown.others(_number(node, shown), node.device.key, node.inode)
        count, paths = len(owners), (owner.path for owner in owners[:SHOWN])
    lines = [str(count)]
    if names:
        lines += ["-" if path is None else _printable(path) for path in paths]
    return "\n".join(lines).encode()


def _same_inode(tree: Tree, node: Node) -> Iterator[Node]:
    """The known files of other devices with the inode number of `node`: asked by what their numbers would be."""
    mounts = tree.filesystems.mounts()
    for device in tree.filesystems.devices():
        if device.key == node.device.key:
            continue
        keys = {device.key, *(mount.key(device, True) for mount in mounts if mount.domain)}
        for key in sorted(keys):
            number = tree.mapper.peek(key, node.inode)
            other = None if number is None else tree.known(number)
            if other is not None and other.inode == node.inode:
                yield other
                break


def _printable(path: bytes) -> str:
    text = path.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _locate(tree: Tree, number: int) -> dict[str, object]:
    key, inode = tree.mapper.locate(number)
    return {"number": number, "device": str(key), "inode": inode}
