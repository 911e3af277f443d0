"""Facts about an area and its watcher, for the commands and the status page.

Reads the control block and the rows, and never asks the watcher. Works before the first snapshot too, since a watcher
writes its status into the control block as soon as it holds the area.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from shmroute.errors import NotReady, ShmrouteError
from shmroute.native import missing
from shmroute.rows import Kind, SettingsRow
from shmroute.shm.control import ControlReader
from shmroute.shm.posix import area_bytes
from shmroute.shm.reader import RowReader
from shmroute.watcher.status import ENDED, FROZEN_SECONDS, Status, decode_status
from shmroute.watcher.workers import workers
from shmroute.worker.reader import Reader

Health = tuple[str, str]
"""The state as a word ("ok", "old" or "bad") and as a sentence."""

_decode_settings = msgspec.msgpack.Decoder(SettingsRow).decode


def status_of(area: str) -> tuple[ControlReader, Status | None]:
    """Return the area's control block, and the last status that its watcher wrote; None if it has written none.

    Raises:
        NotReady: the area does not exist.
        AreaUnreadable, NoAccess
    """
    try:
        control = ControlReader(area)
    except FileNotFoundError:
        raise NotReady(area) from None
    return control, decode_status(control.status())


def onlooker(area: str) -> Reader:
    """Return a reader for commands and pages, which the register does not show among the workers."""
    reader = Reader(area)
    reader._position.listed = False
    return reader


def report(reader: Reader) -> dict[str, Any]:
    """Return the facts about the reader's area in builtin types; ages are in seconds, None means never.

    Raises:
        NotReady: the area does not exist.
        AreaUnreadable, NoAccess
    """
    control, status = status_of(reader.area)
    heartbeat = max(0.0, (time.monotonic_ns() - control.heartbeat_ns) / 1e9)
    ended = status is not None and status.role == ENDED
    return {
        "area": reader.area,
        "generation": control.generation,
        "bytes": area_bytes(reader.area),
        "age": _finite(reader.age),
        "synced": reader.synced,
        "source": _settings(reader.area, status),
        "watcher": {
            "pid": control.writer_pid,
            "alive": heartbeat < FROZEN_SECONDS and not ended,
            "ended": ended,
            "heartbeat_age": heartbeat,
            **(_watcher(status) if status else {}),
        },
        "sources": _sources(status, heartbeat) if status else [],
        "workers": workers(reader.area),
        "look_up": f"plain ({missing})" if missing else "native",
        "fault": str(reader.fault) if reader.fault else None,
    }


def _settings(area: str, status: Status | None) -> dict[str, str] | None:
    """Return the source of the routes: from the watcher's status, else from the SETTINGS row."""
    settings = status.settings if status is not None else None
    if settings is None:
        try:
            row = RowReader(area).get(Kind.SETTINGS, "")
        except NotReady:
            return None
        if row is None:
            return None
        settings = _decode_settings(row)
    return {"source": settings.source, "namespace": settings.namespace, "selector": settings.selector}


def settings_text(settings: dict[str, str] | None) -> str:
    """Return, for example, `https://host:6443 (namespace x, selector iidp=iidp)`."""
    if settings is None:
        return "unknown"
    return str(SettingsRow(settings["namespace"], settings["selector"], settings["source"]))


def _watcher(status: Status) -> dict[str, Any]:
    shown = {
        field: getattr(status, field)
        for field in status.__struct_fields__
        if field not in ("area", "now_ns", "settings", "sources", "metadata")
    }
    shown["metadata"] = msgspec.to_builtins(status.metadata)
    shown["threads"] = msgspec.to_builtins(status.threads)
    return shown


def _sources(status: Status, silent_seconds: float) -> list[dict[str, Any]]:
    """Return the facts about the sources. Their ages include the time since the watcher last wrote its status."""
    return [
        {
            "resource": state.resource,
            "phase": state.phase,
            "age": _finite(status.seconds_since(state.contact_ns) + silent_seconds),
            "storage_age": _finite(status.seconds_since(state.confirmed_ns) + silent_seconds),
            "reason": state.reason,
            "restarts": state.restarts,
            "lists": state.lists,
            "backoff_seconds": state.backoff_seconds,
        }
        for state in status.sources
    ]


def _finite(seconds: float) -> float | None:
    return seconds if seconds != float("inf") else None


def waiting_for(area: str, table: str = "") -> str:
    """Return what the area's watcher, or its source of `table`, waits for before its first list; "" if unknown."""
    try:
        control, status = status_of(area)
    except ShmrouteError:
        return ""
    if status is None:
        return ""
    heartbeat = (time.monotonic_ns() - control.heartbeat_ns) / 1e9
    if status.role == ENDED:
        return "the last watcher has ended"
    if heartbeat >= FROZEN_SECONDS:
        return f"the watcher (pid {control.writer_pid}) is dead or frozen: no heartbeat for {age_words(heartbeat)}"
    states = [state for state in status.sources if table in ("", state.resource)]
    sources = [f"{state.resource}: {state.phase} {state.reason}".strip() for state in states]
    reasons = "; ".join([status.problem] * bool(status.problem) + sources) or "its sources have not reported yet"
    return f"a watcher (pid {control.writer_pid}) runs and has no complete list yet: {reasons}"


def health(facts: dict[str, Any]) -> Health:
    """Return the state in one sentence: whether the area serves, how old its rows are, and why they are not newer."""
    watcher = facts["watcher"]
    silent = age_words(watcher["heartbeat_age"])
    if watcher["ended"]:
        dead = "the watcher has ended"
    elif not watcher["alive"]:
        dead = f"the watcher is dead or frozen: no heartbeat for {silent}"
    else:
        dead = ""
    reasons = [reason for reason in (dead, facts["fault"], watcher.get("problem")) if reason]
    reasons += [f"{source['resource']}: {source['reason']}" for source in facts["sources"] if source["reason"]]
    if facts["workers"]["behind"]:
        first = facts["workers"]["items"][0]
        behind = facts["workers"]["behind"]
        reasons.append(f"{counted(behind, 'worker')} behind (pid {first['pid']}: {first['reason']})")
    if not facts["generation"]:
        waits = f"{reasons[0]}" if reasons else "no complete list yet"
        return "bad", f"serving nothing: {waits}"
    age = "never in step" if facts["age"] is None else f"last in step {age_words(facts['age'])} ago"
    if dead or not facts["synced"] or facts["fault"] or watcher.get("problem"):
        why = reasons[0] if reasons else "this watcher has no complete list of its own yet"
        return "old", f"serving the last state, {age}: {why}"
    if reasons:
        return "old", f"serving, {age}: {reasons[0]}"
    if "models" in watcher and not watcher["models"] and not watcher["table_rows"]:
        return "old", f"serving no models, {age}: no AppModel matches; check namespace, label selector and objects"
    in_step = f"serving, in step {age_words(facts['age'])} ago" if facts["age"] is not None else "serving"
    return "ok", "; ".join((in_step, *watcher.get("no_room", ())[:1]))


def counted(count: int, noun: str) -> str:
    """Return, for example, `1 app` or `2 apps`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def age_words(seconds: float) -> str:
    """Return a time as `0.3 s`, `4 min`, `3 h` or `2 d`."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}" if size == 1 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
