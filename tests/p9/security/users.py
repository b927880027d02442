"""Users whom this host knows, for a while and in our mount namespace only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fusemap.p9 import model as model_module

from ...support.process import ALICE, BOB, MEMBER, TEAM, User, run
from ...support.stage import Stage, detach

OTHER_TEAM: Final = 62001
STRANGER: Final = User(61009, 65534, name="stranger")  # whom the host does not know
NOBODY: Final = 65534


@contextmanager
def known_users(stage: Stage) -> Iterator[None]:
    """This host knows alice, bob and member, in our mount namespace; member is of two more groups."""
    users = "".join(f"{user.name}:x:{user.uid}:{user.gid}::/:/bin/sh\n" for user in (ALICE, BOB, MEMBER))
    groups = "".join(f"{user.name}:x:{user.gid}:\n" for user in (ALICE, BOB, MEMBER))
    groups += f"team:x:{TEAM}:member\nother-team:x:{OTHER_TEAM}:member\n"
    covered = []
    try:
        for name, lines in (("passwd", users), ("group", groups)):
            path = Path("/etc") / name
            (stage.path / name).write_text(path.read_text().rstrip() + "\n" + lines)
            run("mount", "--bind", stage.path / name, path)
            covered.append(path)
        model_module._name.cache_clear()
        yield
    finally:
        for path in covered:
            detach(path)
        model_module._name.cache_clear()
