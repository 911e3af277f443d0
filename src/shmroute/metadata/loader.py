"""Reads the keys that the scheduler says are due, in batches, in its own thread. No other thread waits for the store.

The owner calls `request`, `forget` and `retry_failed`, none of which waits. Another thread calls `run`, which passes
results to a sink. Values are in memory only on their way from the store to the sink.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import msgspec

from shmroute.metadata.retry_delays import store_backoff
from shmroute.metadata.scheduler import MetadataRead, MetadataRequest, Now, PendingRead, ReadScheduler
from shmroute.metadata.store import Absent, Reading, Store, StoreUnavailable
from shmroute.rows import MetadataState, RowKey

_log = logging.getLogger(__name__)

FIRST_BATCH_KEYS: Final = 16
"""Keys in the first batch, and in the first one after a failure: the size of the values is not known yet."""

BATCH_GROWTH: Final = 4
"""Growth factor from one full batch to the next: 16, 64, 256, 1,000, so that 10,000 keys take 13 commands."""

IDLE_SECONDS: Final = 1.0
"""Longest sleep without a new request, in seconds; each request wakes the thread at once."""

JOIN_SECONDS: Final = 0.2
"""Longest wait at the end for a running read, in seconds; once before and once after its connection is closed."""

CLOSE_TIMES: Final = 5
"""Number of times the connection is closed within `JOIN_SECONDS`: a reader may open a new one just after a close."""

WATCH_SECONDS: Final = 0.5
"""Seconds between two checks of the reading thread."""

STUCK_SECONDS: Final = 15.0
"""Seconds after which a running read is reported as a failure of the store. Reads end within 10 s, but the name
look-up before them has no time limit."""


class MetadataLimits(msgspec.Struct, frozen=True):
    """Limits of reading."""

    value_bytes: int = 1024 * 1024
    """Largest value, in bytes; a larger one is not read."""
    batch_keys: int = 1_000
    """Maximum keys in a batch. Redis does nothing else while it answers: 1,000 keys of 4 KiB take it about 2 ms."""
    batch_bytes: int = 8 * 1024 * 1024
    """Approximate bytes of values in a batch, which limits the memory of values on their way."""


class MetadataCounters(msgspec.Struct, frozen=True):
    """Counts since the start, except for `pending`, which is the current number."""

    reads: int
    """Keys read."""
    read_commands: int
    failures: int
    """Reads for which the store was unavailable."""
    pending: int
    """Rows whose metadata is not loaded, including those with a value over the limit."""


class MetadataReads(msgspec.Struct, frozen=True):
    """Results of one batch, on their way to the owner."""

    reads: list[MetadataRead]


ReadSink: TypeAlias = Callable[[MetadataReads], None]
"""Takes the results of a batch. Called in the loader's threads; while it blocks, nothing is read."""


def system_clock() -> Now:
    """Return the current time on the machine's clocks."""
    return Now(time.monotonic(), time.time())


class MetadataLoader:
    """Loads metadata from `store`: each request once, and again while its value is missing.

    Args:
        store: holds the values.
        limits: limits of reading.
        clock: for tests; waits still use the real clock.
    """

    def __init__(
        self,
        store: Store,
        *,
        limits: MetadataLimits | None = None,
        clock: Callable[[], Now] = system_clock,
    ) -> None:
        self._store = store
        self._limits = limits or MetadataLimits()
        self._clock = clock
        self._scheduler = ReadScheduler()
        self._changed = threading.Condition()
        self._stopped = False
        self._failure: BaseException | None = None
        self._reader: threading.Thread | None = None
        self._backoff = store_backoff()
        self._not_before = 0.0
        self._batch_keys = FIRST_BATCH_KEYS
        self._check_sizes = False
        """Whether the last batch had a value over the limit: the next batch then asks for all sizes first."""
        self._reading_since = 0.0
        """Monotonic seconds at which the running read began; 0 if none is running."""
        self._reads = self._read_commands = self._failures = 0

    # --- the owner's side ----------------------------------------------------------------------------------

    def request(self, wanted: Iterable[MetadataRequest]) -> None:
        """Read these; a request replaces an earlier one for the same row. One call for all makes full batches."""
        with self._changed:
            now = self._clock()
            for each in wanted:
                self._scheduler.request(each, now)
            self._changed.notify()

    def forget(self, rows: Iterable[RowKey]) -> None:
        """Drop the requests for these rows."""
        with self._changed:
            for row in rows:
                self._scheduler.forget(row)

    def retry_failed(self) -> None:
        """Read all pending keys again now, and no others."""
        with self._changed:
            self._scheduler.retry(self._clock())
            self._changed.notify()

    @property
    def store_name(self) -> str:
        """Address of the store, without credentials."""
        return self._store.name

    @property
    def problem(self) -> str:
        """Reason why the store is unavailable; "" while it answers."""
        with self._changed:
            return self._scheduler.problem

    @property
    def counters(self) -> MetadataCounters:
        """Counts of reads and pending models. Any thread."""
        with self._changed:
            return MetadataCounters(self._reads, self._read_commands, self._failures, len(self._scheduler.pending))

    # --- the reading thread --------------------------------------------------------------------------------

    def run(self, sink: ReadSink, stop: threading.Event) -> None:
        """Read until `stop` is set; return well under a second later, whatever the store does.

        Reading has its own thread, since nothing can interrupt a DNS look-up. May be called again after a
        failure: it then continues with everything that is still due.

        Raises:
            Exception: the reading thread has failed; the chained cause is its exception.
        """
        if self._reader is not None and self._reader.is_alive():
            raise RuntimeError("the earlier metadata reader has not ended yet")
        with self._changed:
            self._stopped = False
            self._failure = None
            self._reading_since = 0.0
            self._scheduler.put_all_back()
        self._reader = reader = threading.Thread(
            target=self._guarded, args=(sink,), name="metadata reader", daemon=True
        )
        try:
            reader.start()
            while not stop.wait(WATCH_SECONDS) and reader.is_alive():
                self._report_stuck(sink)
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify()
            self._end(reader)
        if not stop.is_set():
            raise RuntimeError("the metadata reader has ended") from self._failure

    def _end(self, reader: threading.Thread) -> None:
        """Wait for the reading thread, which may not have begun, and close the store under a read that hangs."""
        if reader.is_alive():
            reader.join(JOIN_SECONDS)
        for _ in range(CLOSE_TIMES):
            self._store.close()
            if not reader.is_alive():
                break
            reader.join(JOIN_SECONDS / CLOSE_TIMES)

    def _guarded(self, sink: ReadSink) -> None:
        try:
            while requests := self._next():
                self._read(requests, sink)
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            if not self._stopped:  # closing the connection at the end may make a running read fail in any way
                self._failure = error

    def _next(self) -> list[PendingRead]:
        """Wait for due keys and return them; an empty list means stop."""
        with self._changed:
            self._reading_since = 0.0
            while not self._stopped:
                now = self._clock()
                due = self._scheduler.next_due()
                wait = IDLE_SECONDS if due is None else max(due, self._not_before) - now.seconds
                if wait <= 0:
                    self._reading_since = now.seconds
                    return self._scheduler.take(self._batch_keys, now)
                self._changed.wait(min(wait, IDLE_SECONDS))
            return []

    def _read(self, requests: list[PendingRead], sink: ReadSink) -> None:
        try:
            reading = self._store.read(
                [request.key for request in requests],
                limit_bytes=self._limits.value_bytes,
                batch_bytes=self._limits.batch_bytes,
                check_size_first={request.key for request in requests if request.check_size_first or self._check_sizes},
            )
        except StoreUnavailable as error:
            self._unavailable(requests, str(error), sink)
        except Exception as error:  # noqa: BLE001 - a defect of the store must not end the reading
            if not self._stopped and not self.problem:
                _log.exception("metadata store %s: a read failed in an unexpected way", self._store.name)
            self._unavailable(requests, f"unexpected {type(error).__name__}: {error}", sink)
        else:
            self._take(requests, reading, sink)

    def _take(self, requests: list[PendingRead], reading: Reading, sink: ReadSink) -> None:
        found = reading.found
        sizes = [len(value) for value in found.values() if isinstance(value, bytes)]
        left = [request for request in requests if request.key not in found]
        with self._changed:
            if self._scheduler.problem:
                _log.info("metadata store %s answers again", self._store.name)
            self._backoff.reset()
            self._reads += len(found)
            self._read_commands += reading.commands
            self._batch_keys = self._next_batch(len(sizes) if left else len(requests), sum(sizes))
            self._check_sizes = any(
                isinstance(each, Absent) and each.state == MetadataState.TOO_LARGE for each in found.values()
            )
            self._scheduler.put_back(left)
            answers = [(request, found[request.key]) for request in requests if request.key in found]
            reads = self._scheduler.answered(answers, self._clock())
        if reads and not self._stopped:
            sink(MetadataReads(reads))

    def _unavailable(self, requests: list[PendingRead], problem: str, sink: ReadSink) -> None:
        with self._changed:
            if self._stopped:
                return
            if not self._scheduler.problem:
                _log.warning(
                    "metadata store %s is unavailable: %s; it is tried again, routes are served meanwhile",
                    self._store.name,
                    problem,
                )
            self._failures += 1
            self._batch_keys = FIRST_BATCH_KEYS
            self._not_before = self._clock().seconds + self._backoff.failed()
            reads = self._scheduler.unanswered(requests, problem)
        if reads:
            sink(MetadataReads(reads))

    def _report_stuck(self, sink: ReadSink) -> None:
        """Report a read that does not return as a failure of the store, once; a late answer still counts."""
        with self._changed:
            since = self._reading_since
            stuck = bool(since) and self._clock().seconds - since > STUCK_SECONDS and not self._scheduler.problem
        if stuck:
            self._unavailable([], f"no answer within {STUCK_SECONDS:.0f} s, not even to the DNS look-up", sink)

    def _next_batch(self, keys: int, size_bytes: int) -> int:
        """Return the keys of the next batch after one of `keys` and `size_bytes`: it grows towards `batch_bytes`."""
        if size_bytes == 0:
            return min(max(keys * BATCH_GROWTH, FIRST_BATCH_KEYS), self._limits.batch_keys)
        grown = max(keys * BATCH_GROWTH, FIRST_BATCH_KEYS)
        fitting = self._limits.batch_bytes * keys // size_bytes
        return max(1, min(grown, fitting, self._limits.batch_keys))
