"""Attach, walk, clunk and remove: how fids come and go, in every dialect.

Sources: attach(5), walk(5), clunk(5), remove(5). Where Linux's client is laxer than the manual, the client is served:
it walks from fids that are open, which is allowed as long as the new fid is another.
"""

from __future__ import annotations

import errno
import os
from stat import S_IFDIR
from typing import TYPE_CHECKING, Final

from fusemap.errors import errno_of
from fusemap.host.calls import Stat
from fusemap.p9 import control
from fusemap.p9.fids import Attribute, Fid, File, Place
from fusemap.p9.later import Later
from fusemap.p9.messages import (
    NOFID,
    Rattach,
    Rclunk,
    Rremove,
    Rwalk,
    Tattach,
    Tauth,
    Tclunk,
    Tremove,
    Twalk,
)
from fusemap.p9.wire import Message
from fusemap.qid import QID
from fusemap.tree import Node

if TYPE_CHECKING:
    from fusemap.p9.model import User
    from fusemap.p9.session import Session

# Failures that say nothing of the name: Linux takes every short walk for ENOENT and may remember that.
_NOT_OF_THE_NAME: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR)
_CLUNKED: Final = Rclunk()
MUCH_WRITTEN: Final = 1 << 20  # closing such a file on some file systems begins to write it to the disk

def fail(number: int) -> OSError:
    """The error for an errno, to be raised."""
    return OSError(number, os.strerror(number))


def checked(name: bytes) -> bytes:
    """A name that something is to be made, found or removed by. Raises OSError, EINVAL or ENOENT, where it is none."""
    if b"/" in name or b"\0" in name:
        raise fail(errno.EINVAL)
    if not name:
        raise fail(errno.ENOENT)
    return name


def new_name(name: bytes) -> bytes:
    """Like `checked`, where "." and ".." will not do either: EEXIST, which is what the host says of mkdir(".")."""
    if name in (b".", b".."):
        raise fail(errno.EEXIST)
    return checked(name)


def directory(fid: Fid) -> Node:
    """The directory that a fid is. Raises OSError, ENOTDIR."""
    if fid.node.kind != S_IFDIR:
        raise fail(errno.ENOTDIR)
    return fid.node


def device(major: int, minor: int) -> int:
    """A device number. Raises OSError, EINVAL, for what Linux has no room for: 12 and 20 bits (kdev_t.h)."""
    if major >= 1 << 12 or minor >= 1 << 20:
        raise fail(errno.EINVAL)
    return os.makedev(major, minor)


def decimal(digits: bytes) -> int:
    """A number of 32 bits in decimal digits. Raises OSError, EINVAL."""
    if not digits.isdigit() or len(digits) > 10 or int(digits) > NOFID:
        raise fail(errno.EINVAL)
    return int(digits)


def may_change(session: Session) -> None:
    """Raises OSError, EROFS, where the export is read-only."""
    if session.export.read_only:
        raise fail(errno.EROFS)


def auth(session: Session, message: Tauth) -> Message:
    """No authentication is needed. Any error says so (attach(5)), but to diod's clients only this one does."""
    raise fail(errno.ENOENT)


def attach(session: Session, message: Tattach) -> Message:
    """Gives the client the root of the export, or a directory below it."""
    if message.afid != NOFID:
        raise fail(errno.EBADF)
    if message.fid == NOFID:
        raise fail(errno.EINVAL)
    user = session.model.user(message.uname, message.n_uname)
    if session.peer.uid not in (None, user.uid):
        raise fail(errno.EPERM)
    if session.peer.uid is not None:
        user = user._replace(known=True)  # he is of this host, and no client is to be believed about his groups
    if message.aname == control.ANAME:
        return control.attach(session, message, user)
    node = _attach_point(session, user, message.aname)
    try:
        qid = session.export.qid(node, session.model.stat(node))
    except BaseException:
        session.forget(node)
        raise
    session.new_fid(message.fid, Fid(node, node, user, None))
    return Rattach(qid)


def _attach_point(session: Session, user: User, aname: bytes) -> Node:
    """The directory of an attach name, with a look-up for the fid: symbolic links are not followed, ".." is refused."""
    source = os.fsencode(session.tree.source).rstrip(b"/")
    if aname == source or aname.startswith(source + b"/"):
        aname = aname[len(source) :]
    node = session.tree.root
    node.lookups += 1
    try:
        for name in aname.split(b"/"):
            if name in (b"", b"."):
                continue
            if name == b"..":
                raise fail(errno.ENOENT)
            below, _ = session.model.lookup(user, node, checked(name))
            session.forget(node)
            node = below
        if node.kind != S_IFDIR:
            raise fail(errno.ENOTDIR)
    except BaseException:
        session.forget(node)
        raise
    return node


def walk(session: Session, message: Twalk) -> Message:
    """Gives the client a fid for what is found by walking down the names, as far as they all can be walked."""
    fid, new = session.fid(message.fid), message.newfid
    if new == NOFID or (new != message.fid and (new in session.fids or new in session.control)):
        raise fail(errno.EINVAL)
    if new == message.fid and fid.io is not None:
        raise fail(errno.EINVAL)
    if len(message.wname) == 1 and new != message.fid:
        return _walk_one(session, fid, new, message.wname[0])
    node, place = fid.node, fid.place
    qids: list[QID] = []
    passed: list[Node] = []  # known to the end, since the last place is in one of them
    try:
        for name in message.wname:
            try:
                node, st, place = _step(session, fid, node, name, place)
                passed.append(node)
                qids.append(session.export.qid(node, st))
            except OSError as error:
                if not qids or error.errno in _NOT_OF_THE_NAME:
                    raise
                return Rwalk(tuple(qids))
        node.lookups += 1
        replaced = session.drop_fid(new) if new == message.fid else None
        session.new_fid(new, Fid(node, fid.root, fid.user, _alive(place)))
        if replaced is not None:
            session.end(replaced)
    finally:
        for node in passed:
            session.forget(node)
    return Rwalk(tuple(qids))


def _walk_one(session: Session, fid: Fid, new: int, name: bytes) -> Message:
    """The usual walk."""
    node, st, place = _step(session, fid, fid.node, name, fid.place)
    try:
        qid = session.export.qid(node, st)
    except BaseException:
        session.forget(node)
        raise
    session.new_fid(new, Fid(node, fid.root, fid.user, _alive(place)))
    return Rwalk((qid,))


def clunk(session: Session, message: Tclunk) -> Message:
    """The fid is gone whatever comes of it; an attribute that was written through it is set now."""
    fid = session.drop_fid(message.fid)
    if fid.io is None and not fid.remove_at_clunk:
        kept = session.let_go(fid)
        return _CLUNKED if kept is None else _closing(fid, [kept], _CLUNKED)
    long = None
    try:
        if isinstance(fid.io, Attribute) and fid.io.name:
            set_attribute(session, fid, fid.io)
        if fid.remove_at_clunk:
            long = _remove(session, fid)
    except BaseException:
        session.end(fid)
        raise
    return _closed(session, fid, long, Rclunk())


def remove(session: Session, message: Tremove) -> Message:
    """Removes the file that the fid is; the fid is gone whatever comes of it."""
    fid = session.drop_fid(message.fid)
    try:
        may_change(session)
        long = _remove(session, fid)
    except BaseException:
        session.end(fid)
        raise
    return _closed(session, fid, long, Rremove())


def remove_at_end(session: Session, fid: Fid) -> None:
    """As clunk of a dropped fid that was opened to be removed then, where nobody can be told what becomes of it."""
    try:
        long = _remove(session, fid)
        if long is not None:
            os.close(long)
    except Exception as error:
        errno_of(error, "removing at the end of a connection")  # logs what is a bug


def set_attribute(session: Session, fid: Fid, attribute: Attribute) -> None:
    """Sets or removes an attribute whose value has been written. Raises OSError, EINVAL where some of it is missing.

    An announced size of 0 removes, as QEMU has it; Linux asks for that with XATTR_REPLACE. Without that flag it may
    also mean a value of no bytes, and that is what an attribute gets which is not there.
    """
    if attribute.written != attribute.size:
        raise fail(errno.EINVAL)
    model, name = session.model, attribute.name
    if not attribute.size and attribute.flags != os.XATTR_CREATE:
        try:
            model.remove_attribute(fid.user, fid.node, name)
            return
        except OSError as error:
            if error.errno != errno.ENODATA or attribute.flags == os.XATTR_REPLACE:
                raise
    model.set_attribute(fid.user, fid.node, name, bytes(attribute.data), attribute.flags)


def place_of(session: Session, fid: Fid) -> Place:
    """The directory and name of a fid, proved to be its own. Raises OSError, ENOENT where it has none any more."""
    if fid.node is fid.root:
        raise fail(errno.EBUSY)
    place = fid.place
    if place is None or not _is_at(session, fid.node, place):
        place = _place_now(session, fid)
        if place is None or not _is_at(session, fid.node, place):
            raise fail(errno.ENOENT)
    return place


def _is_at(session: Session, node: Node, place: Place) -> bool:
    if not place.name:
        return False
    try:
        found, _ = session.tree.lookup(place.parent, place.name)
    except OSError:
        return False
    session.forget(found)
    return found is node


def _place_now(session: Session, fid: Fid) -> Place | None:
    """Where the host has put a file that was renamed there, as far as its directory is known, and below the attached.

    Of a file with several names none is picked: the client may have meant another.
    """
    tree, node = session.tree, fid.node
    try:
        if node.kind != S_IFDIR and tree.stat(node).nlink != 1:
            return None
        above, name = os.path.split(os.readlink(tree.proc(node)))
        parent = tree.find(above)
        if parent is not None:
            session.forget(tree.lookup_parent(parent, fid.root)[0])  # the proof that it is below
    except OSError:
        return None
    return None if parent is None or not name else Place(parent, name)


def _step(
    session: Session, fid: Fid, node: Node, name: bytes, place: Place | None
) -> tuple[Node, Stat, Place | None]:
    """One name further: the node, with a look-up, its stat, and the place where it was found."""
    model, user = session.model, fid.user
    if node.kind != S_IFDIR:
        raise fail(errno.ENOTDIR)
    if name == b"..":
        below, st = model.above(user, node, fid.root)
        return below, st, None
    if name == b".":
        st = model.stat(node)
        node.lookups += 1
        return node, st, place
    below, st = model.lookup(user, node, checked(name))
    return below, st, Place(node, name)


def _alive(place: Place | None) -> Place | None:
    return place if place is not None and place.name else None


def _remove(session: Session, fid: Fid) -> int | None:
    place = place_of(session, fid)
    parent, name = place.parent, place.name
    long = session.model.remove(fid.user, parent, name, fid.node.kind == S_IFDIR)
    session.export.places.removed(parent, name)
    return long


def _closed(session: Session, fid: Fid, removed: int | None, reply: Message) -> Message | Later:
    """Closes what a dropped fid held and gives the reply; what may take the host long is closed in a thread."""
    slow = isinstance(fid.io, File) and (fid.node.mount.remote or fid.io.written > MUCH_WRITTEN)
    closing = [] if removed is None else [removed]
    try:
        opened = session.shut(fid)
        if opened is not None and slow:
            closing.append(opened)
        elif opened is not None:
            os.close(opened)
    except OSError:
        session.end(fid)
        close_all(closing)
        raise
    known = session.let_go(fid)
    if known is not None:
        closing.append(known)
    return _closing(fid, closing, reply) if closing else reply


def _closing(fid: Fid, fds: list[int], reply: Message) -> Later:
    return Later(fid.node.device.key, lambda: close_all(fds), lambda _: reply)


def close_all(fds: list[int]) -> None:
    """Closes them all, whatever comes of one. Raises OSError, the first."""
    failed = None
    for fd in fds:
        try:
            os.close(fd)
        except OSError as error:
            failed = failed or error
    if failed is not None:
        raise failed
