"""Readings that nobody took, in the shapes of fusemap.tree.telling."""

from __future__ import annotations

import time
from typing import Any

from fusemap.view.reading import Reading


def file(path: str | None, device: str = "uuid:one", *, number: int = 0, directory: bool = False) -> dict[str, Any]:
    """A file of a collision."""
    return {"path": path, "device": device, "inode": 0, "number": number, "directory": directory}


def collision(
    number: int, *files: dict[str, Any], harm: str = "mixed", real: bool = False, count: int = 0
) -> dict[str, Any]:
    """Files that have one number on the host, or (real) are shown with one."""
    return {
        "number": number, "real": real, "harm": harm, "count": count or len(files),
        "files": [{**one, "inode": number} for one in files],
    }  # fmt: skip


def device(identity: str, affix: str, mounted: list[str] | None = None, *, known: int = 10) -> dict[str, Any]:
    """A device that was met."""
    return {
        "identity": identity, "lasting": True, "st_dev": "254:1", "kind": "ext4",
        "mounted": ["/srv/tree"] if mounted is None else mounted,
        "entries": [{"index": 1, "affix": affix, "length": len(affix), "top": 0, "at": ""}],
        "full_map": 0, "known_inodes": known,
    }  # fmt: skip


def operation(count: int, seconds: float = 0.0, slowest: float = 0.0, *latency: tuple[int, int]) -> dict[str, Any]:
    """What one operation took; all of them were timed."""
    return {
        "count": count,
        "timed": count,
        "seconds": seconds,
        "slowest": slowest,
        "latency": [list(one) for one in latency],
    }


def reading(
    *, map: str = "suffix", known: int = 15, devices: list[dict[str, Any]] | None = None,
    collisions: list[dict[str, Any]] | None = None, left_out: int = 0, **stats: Any,
) -> Reading:  # fmt: skip
    """A reading of a mount; of collisions that are left out, each has two files."""
    devices = [device("uuid:one", "1"), device("uuid:two", "010", ["/srv/tree/inner"])] if devices is None else devices
    listed = collisions or []
    kinds: dict[str, Any] = {}
    for key, real in (("averted", False), ("real", True)):
        some = [one for one in listed if one["real"] == real]
        kinds[key] = {harm: sum(one["harm"] == harm for one in some) for harm in ("loop", "error", "mixed")}
        kinds[f"{key}_files"] = sum(one["count"] for one in some)
    kinds["averted"]["mixed"] += left_out
    kinds["averted_files"] += 2 * left_out
    return Reading(
        {
            "format": "fusemap-stats", "version": 1, "front": "fuse", "source": "/srv/tree", "map": map, "k": 0,
            "pid": 7, "time": time.time(), "uptime": 86.2,
            "operations": {"lookup": operation(120, 0.0123, 0.0009, (16, 100), (32, 20))},
            "errors": {"2": 14}, "bytes_read": 0, "bytes_written": 0, "known_inodes": known, "descriptors": 14,
            "descriptor_limit": 524288, "devices": len(devices), "collisions_averted": sum(kinds["averted"].values()),
            "collisions_real": sum(kinds["real"].values()), **stats,
        },
        devices,
        {
            "format": "fusemap-collisions", "version": 1, "map": map, "known_inodes": known, "collisions": listed,
            **kinds,
        },
    )  # fmt: skip
