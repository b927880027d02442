"""`--reuse` for both front ends at once: a mount and a 9P server of one tree give the same numbers."""

from __future__ import annotations

import os

import pytest

from ..support.stage import Stage
from ..support.trees import replace
from .client import Client
from .served import Served


@pytest.mark.parametrize("reuse", ["keep", "new-number"])
def test_a_mount_and_a_server_agree_on_inode_numbers_that_come_again(stage: Stage, reuse: str) -> None:
    source = stage.ext4("src", 16, "-N", "64")
    (source / "f").write_text("first")
    numbers = []
    for turn in range(3):
        mounted = stage.fusemap(source, "--reuse", reuse, at=f"mnt-{turn}")
        with Served(source, stage.path, "--reuse", reuse) as server:
            for way in ("mount", "server") if turn % 2 else ("server", "mount"):
                if way == "mount":
                    number = os.stat(mounted / "f").st_ino
                else:
                    with Client(server.address) as client:
                        root = client.attach()
                        number = client.qid(client.walk(root, "f")).path
                        listed = {entry.name: entry.qid.path for entry in client.list(client.open(root))}
                        assert listed[b"f"] == number
                numbers.append(number)
        assert mounted.unmount() == 0
        replace(source / "f", lambda path: path.write_text("another"))
    assert numbers[::2] == numbers[1::2]
    assert len(set(numbers)) == (1 if reuse == "keep" else 3)
