"""Writes and reads the event log of an area, which says what changed when.

The owner thread passes the rows of a publication to `EventNotes.note`, and writes their events with `write` once the
publication has succeeded. The cost does not grow with the publication: at most `NOTED_ROWS` rows get an event, and the
log takes one event per second in the long run. An event "and N more" counts the rest.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import msgspec

from shmroute.errors import AreaUnavailable, ConfigError
from shmroute.rows import (
    FIRST_TABLE_NUMBER,
    TABLE_KINDS,
    ConflictRow,
    EndpointsRow,
    EndpointsState,
    InvalidRow,
    Kind,
    MetadataRow,
    MetadataState,
    RouteRow,
)
from shmroute.shm.events import EventWriter, read_events
from shmroute.shm.layout import MAX_EVENT_BYTES
from shmroute.shm.writing.segment_writer import Planned
from shmroute.sources.base import SourceState
from shmroute.worker.endpoints import Endpoint

_log = logging.getLogger(__name__)

NOTED_ROWS: Final = 16
"""Largest number of changed rows of one publication that get an event of their own."""

EVENTS_AT_ONCE: Final = 256
"""Largest burst of events. With one more event per second, the log's 1,024 places reach back ten minutes."""

MORE_SECONDS: Final = 10.0
"""Shortest time between two events "and N more"."""

_LOOKED_AT: Final = 256
"""Largest number of rows of one publication that are examined to choose the most important ones."""

_CUT: Final = "…"

_route = msgspec.msgpack.Decoder(RouteRow).decode
_endpoints = msgspec.msgpack.Decoder(EndpointsRow).decode
_metadata = msgspec.msgpack.Decoder(MetadataRow).decode
_conflict = msgspec.msgpack.Decoder(ConflictRow).decode
_invalid = msgspec.msgpack.Decoder(InvalidRow).decode


class Event(msgspec.Struct, frozen=True, omit_defaults=True, rename=lambda field: field[0]):
    """One change. Texts that are too long for a place in the log are cut and end with "…"."""

    kind: str
    """"model", "endpoints", "metadata", "conflict", "invalid", "table", "source", "watcher" or "more"."""
    name: str
    """A model's name, "namespace/appmodel", "namespace/model", "table/key", or a source's resource."""
    what: str
    """"added", "changed" or "removed"; the phase of a source; the action of a watcher."""
    generation: int = 0
    """Generation that published the change."""
    before: str = ""
    """Former value, in words."""
    after: str = ""
    """New value, in words."""


_decode = msgspec.msgpack.Decoder(Event).decode


class EventNotes:
    """Turns changed rows into events and writes them. Used by the owner thread. Never raises.

    Args:
        writer: writes the events to the log.
        row: returns a row's value before the change.
        tables: number of a table's rows -> the table's name. Other tables are not logged.
        clock: returns monotonic nanoseconds.
    """

    def __init__(
        self,
        writer: EventWriter,
        row: Callable[[int, str], bytes | None],
        tables: Mapping[int, str],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._writer = writer
        self._row = row
        self._tables = tables
        self._clock = clock
        self._noted: list[Event] = []
        self._waiting: list[Event] = []
        self._phases: dict[str, tuple[str, bool]] = {}
        self._allowance = float(EVENTS_AT_ONCE)
        self._counted_ns = clock()
        self._left_out = self._noted_left_out = 0
        self._more_ns = self._counted_ns - int(MORE_SECONDS * 1e9)
        self._problem = ""

    def note(self, changes: Sequence[Planned]) -> None:
        """Note the rows that are about to be published. Replaces the notes of a failed attempt."""
        found = sorted(filter(_is_telling, islice(changes, _LOOKED_AT)), key=_place_of)
        chosen = found[: min(NOTED_ROWS, self._allowed(self._clock()))]
        events = (self._event(each.kind, each.key.decode(), each.value) for each in chosen)
        self._noted = [event for event in events if event is not None]
        self._noted_left_out = len(found) - len(chosen) + max(0, len(changes) - _LOOKED_AT)

    def say(self, what: str, after: str = "") -> None:
        """Log an action of the watcher with the next `write`."""
        self._waiting.append(Event("watcher", "", what, after=after))

    def source(self, state: SourceState) -> None:
        """Log with the next `write` that a source has changed its phase, or that its problem has begun or ended."""
        seen = (state.phase, bool(state.reason))
        if self._phases.get(state.resource) != seen:
            self._phases[state.resource] = seen
            self._waiting.append(Event("source", state.resource, state.phase, after=state.reason))

    def write(self, generation: int, *, published: bool = False) -> None:
        """Log the waiting events and, if the rows noted last were `published` as this generation, their events."""
        events = self._waiting
        self._waiting = []
        if published:
            events += self._noted
            self._left_out += self._noted_left_out
            self._noted, self._noted_left_out = [], 0
        if not events and not self._left_out:
            return
        now_ns = self._clock()
        allowed = self._allowed(now_ns)
        self._left_out += max(0, len(events) - allowed)
        events = events[:allowed]
        if self._left_out and self._allowance >= 1 and now_ns - self._more_ns >= MORE_SECONDS * 1e9:
            events.append(Event("more", "", "and", after=f"{self._left_out:,} more rows"))
            self._left_out = 0
            self._more_ns = now_ns
        if events:
            self._allowance -= len(events)
            self._append([_packed(msgspec.structs.replace(event, generation=generation)) for event in events])

    def _allowed(self, now_ns: int) -> int:
        """Return how many events may be logged now. One place stays free for "and N more"."""
        self._allowance = min(float(EVENTS_AT_ONCE), self._allowance + (now_ns - self._counted_ns) / 1e9)
        self._counted_ns = now_ns
        return max(0, int(self._allowance) - 1)

    def _append(self, payloads: list[bytes]) -> None:
        try:
            self._writer.append(time.time_ns(), payloads)
        except (AreaUnavailable, ConfigError, OSError) as error:
            if str(error) != self._problem:
                _log.warning("no event log: %s", error)
            self._problem = str(error)
        else:
            self._problem = ""

    def _event(self, kind: int, key: str, value: bytes | None) -> Event | None:
        """Return the event of a changed row; None if another version wrote the row, or if it must not be shown."""
        former = self._row(kind, key)
        what = "removed" if value is None else "changed" if former is not None else "added"
        if kind >= FIRST_TABLE_NUMBER:  # its values are not logged: they may be confidential
            table = self._tables.get(kind)
            return Event("table", f"{table}/{key}", what) if table else None
        words, describe = _DESCRIPTIONS[Kind(kind)]
        try:
            before, after = ("" if row is None else describe(row) for row in (former, value))
            if kind == Kind.ENDPOINTS and former is not None and value is not None:
                after += _moved(former, value)
        except msgspec.MsgspecError:
            return None
        if {before, after} <= {"", EndpointsState.UNKNOWN.word}:  # a Service without slices is not logged
            return None
        return Event(words, key, what, before=before, after=after)


def _place_of(row: Planned) -> int:
    return _ORDER.get(row.kind, len(_ORDER))


def _is_telling(row: Planned) -> bool:
    # Of a declared table's kinds, only its rows: not its indexes and metadata.
    return row.kind in _DESCRIPTIONS or (
        row.kind >= FIRST_TABLE_NUMBER and (row.kind - FIRST_TABLE_NUMBER) % TABLE_KINDS == 0
    )


def _packed(event: Event) -> bytes:
    """Return the event as msgpack. Cuts the longest texts until the event fits."""
    texts = {field: getattr(event, field) for field in ("name", "before", "after")}
    while True:
        data = msgspec.msgpack.encode(msgspec.structs.replace(event, **texts))
        excess = len(data) - MAX_EVENT_BYTES
        if excess <= 0:
            return data
        longest = max(texts, key=lambda field: len(texts[field].encode()))
        kept = len(texts[longest].encode()) - max(excess, 1) - len(_CUT.encode())
        texts[longest] = texts[longest].removesuffix(_CUT).encode()[:kept].decode(errors="ignore") + _CUT


# --- rows in words ----------------------------------------------------------------------------------------------------


def _model_words(value: bytes) -> str:
    row = _route(value)
    others = f"; also in {', '.join(other.namespace for other in row.others)}" if row.others else ""
    return f"{row.version} by app {row.app} {row.app_version} ({row.namespace}/{row.appmodel}){others}"


def _invalid_words(value: bytes) -> str:
    return _invalid(value).reason


def _conflict_words(value: bytes) -> str:
    row = _conflict(value)
    return f"served by {row.winner}, also claimed by {', '.join(row.losers)}"


def _endpoints_words(value: bytes) -> str:
    row = _endpoints(value)
    if not row.endpoints:
        return EndpointsState(row.state).word
    return f"{sum(each.ready for each in row.endpoints)} of {len(row.endpoints)} ready"


def _moved(before: bytes, after: bytes) -> str:
    """Return the addresses that have become ready (+) and those that are no longer ready (-)."""
    old, new = (
        {str(Endpoint(each.host, each.port)) for each in _endpoints(row).endpoints if each.ready}
        for row in (before, after)
    )
    moved = [f"+{address}" for address in sorted(new - old)] + [f"-{address}" for address in sorted(old - new)]
    return f" ({' '.join(moved)})" if moved else ""


def _metadata_words(value: bytes) -> str:
    row = _metadata(value)
    size = f", {len(row.value)} bytes of version {row.version}" if row.value is not None else ""
    return f"{MetadataState(row.state).word} {row.wanted}{size}"


_DESCRIPTIONS: Final[dict[int, tuple[str, Callable[[bytes], str]]]] = {
    Kind.MODEL: ("model", _model_words),
    Kind.INVALID: ("invalid", _invalid_words),
    Kind.CONFLICT: ("conflict", _conflict_words),
    Kind.ENDPOINTS: ("endpoints", _endpoints_words),
    Kind.METADATA: ("metadata", _metadata_words),
}
"""Kind of a row -> its name in events, and a function that describes a value; the most important kind first. APP rows
need no events, since they follow from MODEL rows."""

_ORDER: Final = {kind: place for place, kind in enumerate(_DESCRIPTIONS)}


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds of a unit of time."""


# --- reading ----------------------------------------------------------------------------------------------------------


def read(area: str, since: float = 0.0, model: str | None = None) -> list[dict[str, Any]]:
    """Return the events of the area, the oldest first; empty if the area has no event log.

    Args:
        area: the area's name.
        since: Unix time of the first event to return, in seconds.
        model: return only the events of this model: its routes, metadata and conflicts, and the endpoints of the
            AppModels that have served it.

    Raises:
        NoAccess, AreaUnreadable: the log cannot be read.
    """
    try:
        logged = read_events(area)
    except FileNotFoundError:
        return []
    events = []
    for each in logged:
        with suppress(msgspec.MsgspecError):  # written by another version
            events.append((each.when_ns / 1e9, _decode(each.payload)))
    if model is not None:
        routes = [event for _, event in events if event.kind == "model" and _is_name(event.name, model)]
        appmodels = {found for event in routes for found in re.findall(r"\((\S+/\S+?)\)", event.before + event.after)}
        events = [each for each in events if _concerns(each[1], model, appmodels)]
    return [{"time": when, **msgspec.structs.asdict(event)} for when, event in events if when >= since]


def parse_period(text: str) -> float:
    """Return the seconds of a text such as `90`, `90s`, `10m`, `2h` or `1d`. Raises `ValueError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not found:
        raise ValueError(f"since={text!r}: write a number and s, m, h or d, as in 10m")
    return float(found[1]) * _UNITS[found[2] or "s"]


def time_in_words(unix_seconds: float) -> str:
    """Return a time in UTC, such as `05:52:49`; with the date unless it is today's."""
    when = datetime.fromtimestamp(unix_seconds, UTC)
    return when.strftime("%H:%M:%S" if when.date() == datetime.now(UTC).date() else "%Y-%m-%d %H:%M:%S")


def in_words(event: dict[str, Any]) -> str:
    """Return an event of `read` as a sentence, without its time. Names come from the cluster unchanged: escape them."""
    if event["kind"] == "more":
        return f"and {event['after']}"
    states = " -> ".join(part for part in (event["before"], event["after"]) if part)
    subject = " ".join(part for part in (event["kind"], event["name"], event["what"]) if part)
    if event["kind"] == "conflict":
        what = {"added": "began", "removed": "ended"}.get(event["what"], event["what"])
        subject = f"conflict {event['name']} {what}"
    elif event["kind"] == "invalid":
        if event["what"] == "removed":
            return f"{event['name']} no longer set aside"
        subject = f"{event['name']} set aside"
    return f"{subject}: {states}" if states else subject


def is_routine(event: dict[str, Any]) -> bool:
    """Return whether an event of `read` is a step by which a source comes to watch, without a problem."""
    return event["kind"] == "source" and event["what"] in ("starting", "listing") and not event["after"]


def last_served(area: str, model: str) -> dict[str, Any] | None:
    """Return the event that removed the model's last route; None if the log lacks it, or if an app serves the model."""
    events = [event for event in read(area, model=model) if event["kind"] == "model"]
    return events[-1] if events and events[-1]["what"] == "removed" else None


def _concerns(event: Event, model: str, appmodels: Container[str]) -> bool:
    if event.kind == "endpoints":
        return event.name in appmodels
    name = event.name.partition("/")[2] if event.kind in ("metadata", "conflict") else event.name
    return event.kind in ("model", "metadata", "conflict") and _is_name(name, model)


def _is_name(logged: str, name: str) -> bool:
    return logged == name or (logged.endswith(_CUT) and name.startswith(logged.removesuffix(_CUT)))
