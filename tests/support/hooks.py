"""What tests do to a server before it serves (tests.support.server)."""

from __future__ import annotations

from typing import Any, Final

LATE_DAY: Final = 40_000


def nothing(operations: Any) -> None:
    """Only for asking about the inside."""


def broken_getxattr(operations: Any) -> None:
    """A bug: reading the attribute user.bug raises what no handler should raise."""
    get = type(operations).getxattr.__wrapped__

    async def getxattr(self: Any, inode: int, name: bytes, ctx: Any) -> bytes:
        if name == b"user.bug":
            raise ZeroDivisionError("a bug on purpose")
        return await get(self, inode, name, ctx)  # type: ignore[no-any-return]

    from fusemap.fuse.operations import answers

    type(operations).getxattr = answers(getxattr)


def broken_everything(operations: Any) -> None:
    """A bug in every handler that a name "bug" leads to: looking it up breaks, as do all calls with that name."""
    import fusemap.tree.changes as changes
    from fusemap.fuse.operations import Operations
    from fusemap.tree import Tree

    def guard(function: Any) -> Any:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if b"bug" in arguments:
                raise RuntimeError("a bug on purpose")
            return function(*arguments, **named)

        return wrapped

    Tree.lookup = guard(Tree.lookup)  # type: ignore[method-assign]
    for name in ("mkdir", "mknod", "symlink", "create", "unlink", "rmdir", "rename", "link"):
        setattr(changes, name, guard(getattr(changes, name)))
    assert isinstance(operations, Operations)


def scarce(operations: Any) -> None:
    """Only twenty more files get a number."""
    from fusemap.qid import Allocator, Mapper

    mapper = Mapper(source=Allocator(65536, 2**31 - 20))
    operations.tree.mapper = mapper
    operations.tree._path = mapper.path


def short_days(operations: Any) -> None:
    """A day takes a twentieth of a second, and today is LATE_DAY, though it was not when the devices were met."""
    import fusemap.table.table as table
    import fusemap.tree.days as days

    days._DAY_SECONDS = 0.05  # type: ignore[misc]
    table._today = lambda: LATE_DAY
