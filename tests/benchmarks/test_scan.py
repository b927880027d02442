"""The measurement of the scan runs through, with so few files that its times mean nothing."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import scan


def test_made_up_files_are_counted() -> None:
    found = scan.pairs(8000)
    assert found["colliding"] >= 8000
    assert found.pop("full map") == 0
    assert min(found.values()) > 0
    assert scan.pairs(8000, True)["colliding"] < 8000


def test_a_tree_is_walked_by_both(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = scan.beside_find(str(tmp_path), 1)
    assert min(found.values()) > 0
