"""Reads the workers' register for the commands, the metrics and the status page. Only for display, never trusted."""

from __future__ import annotations

import time
from typing import Any

from shmroute.errors import AreaUnavailable
from shmroute.shm.register import WorkerNote, read_workers


def workers(area: str) -> dict[str, Any]:
    """Return the processes that have the area open.

    Returns:
        `known`: False if the register cannot be read (the numbers are then None, not 0); `reason` says why.
        `count`: number of live processes. `behind`: number of processes that failed to read a newer generation; an idle
        worker at an older generation is not behind. `oldest`: lowest generation that a process answers from. `items`:
        one for each process, those behind first.
    """
    try:
        notes = read_workers(area)
    except FileNotFoundError:
        return _unknown("the area has no register of workers")
    except AreaUnavailable as error:
        return _unknown(str(error))
    items = sorted(map(_item, notes), key=lambda item: (item["state"] != "behind", item["pid"]))
    return {
        "known": True,
        "reason": "",
        "count": len(items),
        "behind": sum(item["state"] == "behind" for item in items),
        "oldest": min((item["generation"] for item in items), default=None),
        "items": items,
    }


def _unknown(reason: str) -> dict[str, Any]:
    return {"known": False, "reason": reason, "count": None, "behind": None, "oldest": None, "items": []}


def _item(note: WorkerNote) -> dict[str, Any]:
    now_ns = time.monotonic_ns()
    return {
        "pid": note.pid,
        "state": "behind" if note.stuck_at else "ok",
        "generation": note.generation,
        "stuck_at": note.stuck_at or None,
        "reason": note.reason,
        "look_up": note.look_up or "unknown",
        "started_seconds": max(0.0, (now_ns - note.started_ns) / 1e9),
        "noted_seconds": max(0.0, (now_ns - note.noted_ns) / 1e9),
    }
