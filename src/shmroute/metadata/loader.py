"""Reads what the gate wants, in batches, in a thread of its own; nothing ever waits for it.

The owner calls `want`, `gone`, `settled` and `retry_failed`, none of which waits for the store. `run` belongs to
another thread and hands what it has read to a sink. Values are held only on their way from the store to the sink.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import msgspec

from shmroute.metadata.carry import carry_over
from shmroute.metadata.gate import Gate, MetadataRead, Moment, PendingKey, Want
from shmroute.metadata.schedule import StoreBackoff
from shmroute.metadata.store import Store, StoreAway
from shmroute.metadata.template import KeyTemplate

__all__ = ["MetadataCounters", "MetadataLimits", "MetadataLoader", "MetadataRead", "ReadSink", "system_clock"]

_log = logging.getLogger(__name__)

ReadSink: TypeAlias = Callable[[list[MetadataRead]], None]
"""Takes what has been read, in the loader's thread; never blocks."""

FIRST_BATCH_KEYS: Final = 16
"""Nothing is known of the values' size yet, or of how the store feels after a failure: begin small."""

BATCH_GROWTH: Final = 4
"""From one full batch to the next, 16, 64, 256, 1,000: 10,000 keys take 13 commands."""

IDLE_SECONDS: Final = 1.0
"""The longest wait for something to do; whatever is new wakes the thread at once."""

JOIN_SECONDS: Final = 0.2
"""How long the end waits for a read under way, before and after its connection is cut."""

WATCH_SECONDS: Final = 0.5
"""How often `run` looks whether the reading thread still lives; its end would be a defect."""


class MetadataLimits(msgspec.Struct, frozen=True):
    """What one read may take."""

    value_bytes: int = 1024 * 1024
    """A larger value is not kept."""
    batch_keys: int = 1_000
    """A Redis server does nothing else while it answers: 1,000 keys of 4 KiB take it about 2 ms."""
    batch_bytes: int = 8 * 1024 * 1024
    """What a batch aims at, going by the sizes of the last one: bounds the memory of values on their way."""


class MetadataCounters(msgspec.Struct, frozen=True):
    """Since the start, but for `pending` and `too_large`, which tell how it is now."""

    reads: int
    """Keys read."""
    read_commands: int
    bytes: int
    """Of values read."""
    skipped_by_version: int
    """Models looked at that cost no read, as their version was the same."""
    failures: int
    """Reads that the store did not answer."""
    pending: int
    """Models whose metadata is not there in the version asked for."""
    too_large: int
    """Of these, the ones over the limit."""


def system_clock() -> Moment:
    """Now, on the machine's clocks."""
    return Moment(time.monotonic(), time.time())


class MetadataLoader:
    """Loads metadata from `store`, each key once per version.

    Args:
        store: where values are.
        template: how keys are made.
        limits: what one read may take.
        clock: tests inject one; waits are real all the same.
    """

    def __init__(
        self,
        store: Store,
        *,
        template: KeyTemplate | None = None,
        limits: MetadataLimits | None = None,
        clock: Callable[[], Moment] = system_clock,
    ) -> None:
        self._store = store
        self._limits = limits or MetadataLimits()
        self._clock = clock
        self._gate = Gate(template or KeyTemplate())
        self._changed = threading.Condition()
        self._stopped = False
        self._failure: BaseException | None = None
        self._backoff = StoreBackoff()
        self._not_before = 0.0
        self._batch_keys = FIRST_BATCH_KEYS
        self._reads = self._read_commands = self._bytes = self._failures = 0

    # --- the owner's side ----------------------------------------------------------------------------------

    @contextmanager
    def changes(self) -> Iterator[None]:
        """`want` and `gone` inside are seen by the reading thread all at once, so that it reads in full batches."""
        with self._changed:
            yield
            self._changed.notify()

    def want(self, namespace: str, model: str, app: str, version: str) -> MetadataRead | None:
        """Say which version of a model's metadata is in force.

        Returns:
            What to publish (through `settled`) together with the route; None where nothing changes: this app and
            version have been wanted before, and cost no read.
        """
        with self._changed:
            read = self._gate.want(namespace, model, app, version, self._clock())
            self._changed.notify()
            return read

    def gone(self, namespace: str, model: str) -> None:
        """Say that the model is served no more in the namespace; the owner removes its row."""
        with self._changed:
            self._gate.gone(namespace, model)

    def settled(self, read: MetadataRead, published: bytes | None) -> bytes | None:
        """The METADATA row to publish for `read`, given the one that stands now.

        Returns:
            None if another version has been wanted since, or the model has gone.
        """
        with self._changed:
            newest = self._gate.is_newest(read)
        return carry_over(read.row, published) if newest else None

    def retry_failed(self) -> None:
        """Ask now for all that is not there; reads nothing else."""
        with self._changed:
            self._gate.retry(self._clock())
            self._changed.notify()

    @property
    def store_name(self) -> str:
        """Where from, without credentials."""
        return self._store.name

    @property
    def problem(self) -> str:
        """Why the store cannot be read, "" while it can."""
        with self._changed:
            return self._gate.problem

    @property
    def counters(self) -> MetadataCounters:
        """How much has been read, and how it stands. Any thread."""
        with self._changed:
            return MetadataCounters(
                self._reads,
                self._read_commands,
                self._bytes,
                self._gate.skipped,
                self._failures,
                self._gate.pending_count,
                self._gate.too_large,
            )

    def pending(self) -> list[PendingKey]:
        """What is not there in the version asked for, and why. Any thread."""
        with self._changed:
            return list(self._gate.pending())

    # --- the reading thread --------------------------------------------------------------------------------

    def run(self, sink: ReadSink, stop: threading.Event) -> None:
        """Read until `stop` is set; returns well under a second after, whatever the store does meanwhile.

        Reading goes on in a thread of its own, since name look-up and TLS know no interruption.
        """
        reader = threading.Thread(target=self._guarded, args=(sink,), name="metadata reader", daemon=True)
        reader.start()
        try:
            while not stop.wait(WATCH_SECONDS) and reader.is_alive():
                pass
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify()
            reader.join(JOIN_SECONDS)
            self._store.close()
            reader.join(JOIN_SECONDS)
        if self._failure is not None:
            raise self._failure

    def _guarded(self, sink: ReadSink) -> None:
        try:
            while wants := self._next():
                self._read(wants, sink)
        except Exception as error:  # noqa: BLE001 - raised again by `run`
            if not self._stopped:  # a connection cut under a read by the end of `run` may fail in any way
                self._failure = error

    def _next(self) -> list[Want]:
        """Wait for keys that are due; none means: stop."""
        with self._changed:
            while not self._stopped:
                now = self._clock()
                due = self._gate.next_due()
                wait = IDLE_SECONDS if due is None else max(due, self._not_before) - now.seconds
                if wait <= 0:
                    return self._gate.take(self._batch_keys, now)
                self._changed.wait(min(wait, IDLE_SECONDS))
            return []

    def _read(self, wants: list[Want], sink: ReadSink) -> None:
        try:
            reading = self._store.read(
                [want.key for want in wants],
                limit_bytes=self._limits.value_bytes,
                measure={want.key for want in wants if want.measure},
            )
        except StoreAway as error:
            self._away(wants, str(error), sink)
            return
        size = sum(len(found) for found in reading.found if isinstance(found, bytes))
        with self._changed:
            if self._gate.problem:
                _log.info("metadata store %s answers again", self._store.name)
            self._backoff.answered()
            self._reads += len(wants)
            self._read_commands += reading.commands
            self._bytes += size
            self._batch_keys = self._next_batch(len(wants), size)
            reads = self._gate.answered(zip(wants, reading.found, strict=True), self._clock())
        if reads and not self._stopped:
            sink(reads)

    def _away(self, wants: list[Want], problem: str, sink: ReadSink) -> None:
        with self._changed:
            if self._stopped:
                return
            if not self._gate.problem:
                _log.warning("metadata store %s: %s; it is asked again, routes go on", self._store.name, problem)
            self._failures += 1
            self._batch_keys = FIRST_BATCH_KEYS
            self._not_before = self._clock().seconds + self._backoff.failed()
            reads = self._gate.unanswered(wants, problem)
        if reads:
            sink(reads)

    def _next_batch(self, keys: int, size_bytes: int) -> int:
        """How many keys the next batch takes, after one of `keys`: it grows step by step towards the aim."""
        grown = max(keys * BATCH_GROWTH, FIRST_BATCH_KEYS)
        fitting = self._limits.batch_bytes * keys // max(size_bytes, 1)
        return max(1, min(grown, fitting, self._limits.batch_keys))
