"""Security models: on whose rights a request is done, and what a client is told of owner and mode.

none         the server's own rights; the client checks its users by itself. What is made belongs to the attached user.
passthrough  the attached user's rights, his groups on this host included: the host checks every request.
mapped-xattr as none, but owner, mode and device numbers that the client sets live in attributes (mapped.py).

They are QEMU's models of the same names (virtio-9p's security_model). A server that is not root cannot act as another,
so under `none` all that is made is its own.

Every operation of both dialects that asks for rights goes through here and nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import time
from collections.abc import Callable
from functools import lru_cache
from stat import S_IFDIR
from typing import Any, Final, NamedTuple

from fusemap.errors import Refused
from fusemap.host.calls import Stat
from fusemap.host.creds import CAP_FILES, Account, Caller, Standing
from fusemap.p9.messages import NONUNAME
from fusemap.tree import Directory, Node, Tree, attributes, changes
from fusemap.tree.data import truncate
from fusemap.tree.shown import Shown
from fusemap.tree.virtual import VIRTUAL_PREFIX, virtual

NOBODY: Final = 65534
NAMES_KEPT_SECONDS: Final = 60
SEARCH: Final = os.X_OK


class User(NamedTuple):
    """Who attached, as this host knows him; `known` if it does."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    known: bool = True


class Model:
    """The model `none`."""

    name = "none"
    maps = False  # whether a client is told other attributes than the host's
    numbering: Shown | None = None  # what numbers clients are shown, where those are not the nodes' own

    def __init__(self, tree: Tree) -> None:
        self.tree: Final = tree
        self._identity = tree.identity

    # Who ------------------------------------------------------------------------------------------------------------

    def user(self, uname: bytes, n_uname: int) -> User:
        """The user of Tattach, by number or else by name; the server's own where neither says anything to this host."""
        found = _by_number(n_uname) if n_uname != NONUNAME else _by_name(uname)
        return found or _by_number(self._identity.uid)

    def maker(self, user: User, gid: int) -> Caller:
        """As whom a file is made: owned by the user, with the server's rights. `gid` is the client's wish."""
        group = user.gid if gid == NONUNAME else gid
        return Caller(user.uid, group, standing=Standing([group], CAP_FILES))

    def actor(self, user: User) -> Caller | None:
        """On whose rights all else is done; None: the server's."""
        return None

    def account(self, user: User, st: Stat) -> Account:
        """On whose account data is written to a file: set-id bits go, and quotas count, as for the user."""
        return self._identity.account(Caller(user.uid, user.gid, standing=Standing(list(user.groups), 0)), st.mode)

    # What a client sees ---------------------------------------------------------------------------------------------

    def shown(self, node: Node, st: Stat) -> Stat:
        """What the client is told where the host says `st`."""
        return st

    def shown_entry(self, directory: Directory, name: bytes, st: Stat) -> Stat:
        """Like `shown`, for an entry of an open directory."""
        return st

    def _shown_new(self, node: Node, st: Stat) -> Stat:
        """As `shown`, of what was just looked up and is forgotten where that fails."""
        try:
            return self.shown(node, st)
        except BaseException:
            self.tree.forget(node)
            raise

    def stat(self, node: Node) -> Stat:
        """What the client is told of a file. Raises OSError."""
        return self.shown(node, self.tree.stat(node))

    # Finding --------------------------------------------------------------------------------------------------------

    def lookup(self, user: User, parent: Node, name: bytes) -> tuple[Node, Stat]:
        """The file `name` in a directory; its look-up count is raised. Raises OSError."""
        self._may(user, parent, SEARCH)
        node, st = self.tree.lookup(parent, name)
        return (node, self._shown_new(node, st)) if self.maps else (node, st)

    def above(self, user: User, node: Node, top: Node) -> tuple[Node, Stat]:
        """The directory above, not above `top`; its look-up count is raised. Raises OSError."""
        self._may(user, node, SEARCH)
        parent, st = self.tree.lookup_parent(node, top)
        return (parent, self._shown_new(parent, st)) if self.maps else (parent, st)

    def may_look(self, user: User, directory: Node) -> bool:
        """Whether a user who may list a directory may see of its files more than their names."""
        try:
            self._may(user, directory, SEARCH)
        except PermissionError:
            return False
        return True

    def readlink(self, user: User, node: Node) -> bytes:
        """The target of a symbolic link. Raises OSError."""
        return changes.readlink(self.tree, node)

    def readlink_at(self, directory: Directory, name: bytes) -> bytes:
        """The target of a symbolic link in an open directory. Raises OSError."""
        return os.readlink(name, dir_fd=directory.fd)

    # Making ---------------------------------------------------------------------------------------------------------

    def mkdir(self, user: User, parent: Node, name: bytes, mode: int, gid: int) -> tuple[Node, Stat]:
        """A new directory; its look-up count is 1, here and below. Raises OSError."""
        return changes.mkdir(self.tree, parent, name, mode, self.maker(user, gid))

    def mknod(self, user: User, parent: Node, name: bytes, mode: int, rdev: int, gid: int) -> tuple[Node, Stat]:
        """A new file of any type but directory and symbolic link. Raises OSError."""
        return changes.mknod(self.tree, parent, name, mode, rdev, self.maker(user, gid))

    def symlink(self, user: User, parent: Node, name: bytes, target: bytes, gid: int) -> tuple[Node, Stat]:
        """A new symbolic link. Raises OSError."""
        return changes.symlink(self.tree, parent, name, target, self.maker(user, gid))

    def create(
        self, user: User, parent: Node, name: bytes, flags: int, mode: int, gid: int
    ) -> tuple[int, Node, Stat]:
        """open(2) with O_CREAT: descriptor, node, stat. Raises OSError."""
        cut = flags & os.O_TRUNC and flags & os.O_ACCMODE != os.O_RDONLY
        if cut:
            flags &= ~os.O_TRUNC
        fd, node, st = changes.create(self.tree, parent, name, flags, mode, self.maker(user, gid))
        if not cut or not st.size:
            return fd, node, st
        try:  # not within open(2): the maker's rights would leave a file that was there its set-id bits
            truncate(self._identity, self.account(user, st), fd, 0)
            return fd, node, self.tree.calls.statx(fd, b"")
        except BaseException:
            os.close(fd)
            self.tree.forget(node)
            raise

    def open(self, user: User, node: Node, flags: int) -> int:
        """A descriptor of a regular file or directory. Raises OSError."""
        self.tree.fd(node)  # found by the server's right to open handles, opened by the user's rights
        with changes.acting(self.tree, self.actor(user)):
            return self.tree.open(node, flags)

    def link(self, user: User, node: Node, parent: Node, name: bytes) -> None:
        """One more name. Raises OSError."""
        linked, _ = changes.link(self.tree, node, parent, name, self.actor(user))
        self.tree.forget(linked)

    # Removing and renaming ------------------------------------------------------------------------------------------

    def remove(self, user: User, parent: Node, name: bytes, directory: bool) -> int | None:
        """unlink(2) or rmdir(2); like `changes.unlink`, a descriptor whose closing takes time. Raises OSError."""
        if directory:
            changes.rmdir(self.tree, parent, name, self.actor(user))
            return None
        return changes.unlink(self.tree, parent, name, self.actor(user))

    def rename(
        self, user: User, old_parent: Node, old: bytes, new_parent: Node, new: bytes, flags: int = 0
    ) -> int | None:
        """renameat2(2); the answer is like that of `remove`. Raises OSError."""
        return changes.rename(self.tree, old_parent, old, new_parent, new, flags, self.actor(user))

    # Attributes -----------------------------------------------------------------------------------------------------

    def chmod(self, user: User, node: Node, mode: int) -> None:
        """chmod(2). Raises OSError."""
        changes.chmod(self.tree, node, mode, self.actor(user))

    def chown(self, user: User, node: Node, uid: int, gid: int) -> None:
        """lchown(2); -1 leaves a value as it is. Where the server could not, `none` lets it pass. Raises OSError."""
        with contextlib.nullcontext() if self._identity.can_switch else contextlib.suppress(PermissionError):
            changes.chown(self.tree, node, uid, gid, self.actor(user))

    def utimens(self, user: User, node: Node, atime_ns: int | None, mtime_ns: int | None) -> None:
        """utimensat(2). Raises OSError."""
        changes.utimens(self.tree, node, atime_ns, mtime_ns, self.actor(user))

    def get_attribute(self, user: User, node: Node, name: bytes) -> bytes:
        """getxattr(2). Raises OSError."""
        if name.startswith(VIRTUAL_PREFIX):
            names = user.uid in (0, self._identity.uid)
            return virtual(self.tree, node, name, self.stat(node), self.numbering, names)
        return attributes.get(self.tree, node, name, self.actor(user))

    def set_attribute(self, user: User, node: Node, name: bytes, value: bytes, flags: int) -> None:
        """setxattr(2). Raises OSError."""
        _refuse_virtual(name)
        actor = self.actor(user)
        attributes.put(self.tree, node, name, value, actor or self.maker(user, NONUNAME), flags, actor)

    def remove_attribute(self, user: User, node: Node, name: bytes) -> None:
        """removexattr(2). Raises OSError."""
        _refuse_virtual(name)
        attributes.remove(self.tree, node, name, self.actor(user))

    def attribute_names(self, user: User, node: Node) -> list[bytes]:
        """listxattr(2). Raises OSError."""
        return attributes.names(self.tree, node, Caller(user.uid, user.gid))

    def wrote(self, user: User, node: Node) -> None:
        """Data of a file is about to be changed on a user's account."""

    def _may(self, user: User, node: Node, mode: int) -> None:
        """Raises OSError, EACCES, unless the user has a right (access(2)'s bits); the client checks under `none`."""


class Passthrough(Model):
    """The model `passthrough`. Raises Refused where the server is not root."""

    name = "passthrough"

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree)
        if not self._identity.can_switch:
            raise Refused("--security passthrough acts as each user, which only root can: run as root, or use none")

    def user(self, uname: bytes, n_uname: int) -> User:
        """The user of Tattach. Raises OSError, EPERM for a name that nobody has here."""
        found = _by_number(n_uname) if n_uname != NONUNAME else _by_name(uname or user_name(NOBODY))
        if found is None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return found

    def maker(self, user: User, gid: int) -> Caller:
        """The user himself. The client's group is taken if he is in it, or if only the client knows him."""
        mine = gid in (NONUNAME, user.gid) or (user.known and user.uid != 0 and gid not in user.groups)
        return self._caller(user, user.gid if mine else gid)

    def actor(self, user: User) -> Caller | None:
        """The user himself."""
        return None if user.uid == 0 else self._caller(user, user.gid)

    def _caller(self, user: User, gid: int) -> Caller:
        return Caller(user.uid, gid, standing=Standing(list(user.groups), CAP_FILES if user.uid == 0 else 0))

    def chown(self, user: User, node: Node, uid: int, gid: int) -> None:
        """lchown(2). Raises OSError."""
        changes.chown(self.tree, node, uid, gid, self.actor(user))

    def _may(self, user: User, node: Node, mode: int) -> None:
        if user.uid == 0 or node.kind != S_IFDIR:
            return
        path = self.tree.proc(node)
        with self._identity.of(self._caller(user, user.gid)):
            if not os.access(path, mode, effective_ids=True):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def _by_number(uid: int) -> User:
    try:
        entry = pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        return User(uid, NOBODY if uid else 0, (), known=False)
    return User(uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def _by_name(uname: bytes) -> User | None:
    try:
        return _by_number(pwd.getpwnam(os.fsdecode(uname)).pw_uid)
    except (KeyError, ValueError):
        return _by_number(int(uname)) if _is_number(uname) else None


def user_name(uid: int) -> bytes:
    """The name of a user, as 9P2000 wants it; the number in digits where he has none."""
    return _name(pwd.getpwuid, uid, int(time.monotonic()) // NAMES_KEPT_SECONDS)


def group_name(gid: int) -> bytes:
    """The name of a group, like `user_name`."""
    return _name(grp.getgrgid, gid, int(time.monotonic()) // NAMES_KEPT_SECONDS)


@lru_cache(maxsize=4096)
def _name(entry_of: Callable[[int], tuple[Any, ...]], number: int, _: int) -> bytes:
    try:
        return os.fsencode(entry_of(number)[0])
    except (KeyError, OverflowError):
        return b"%d" % number


def group_number(name: bytes) -> int:
    """The inverse of `group_name`. Raises OSError, EINVAL for an unknown one."""
    try:
        return grp.getgrnam(os.fsdecode(name)).gr_gid
    except (KeyError, ValueError):
        if _is_number(name):
            return int(name)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None


def _is_number(digits: bytes) -> bool:
    return digits.isdigit() and len(digits) <= 10 and int(digits) < NONUNAME


def _refuse_virtual(name: bytes) -> None:
    if name.startswith(VIRTUAL_PREFIX):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
