from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from shmroute.metadata.folder_store import FolderStore
from shmroute.metadata.loader import MetadataLimits, MetadataLoader, MetadataReads
from shmroute.metadata.redis_store import RedisStore
from shmroute.metadata.scheduler import MetadataRead, MetadataRequest, Now
from shmroute.metadata.store import Reading, StoreUnavailable
from shmroute.rows import Kind, MetadataState
from tests.metadata.redis_groups import wait_for
from tests.redis_server import RedisServer

WAIT_SECONDS = 20.0


class NotedStore(FolderStore):
    """A folder store that records for each read the number of keys and of bytes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.batches: list[int] = []
        self.sizes: list[int] = []

    def read(
        self, keys: Sequence[str], *, limit_bytes: int, batch_bytes: int, check_size_first: Collection[str] = ()
    ) -> Reading:
        reading = super().read(keys, limit_bytes=limit_bytes, batch_bytes=batch_bytes)
        self.batches.append(len(reading.found))
        self.sizes.append(sum(len(found) for found in reading.found.values() if isinstance(found, bytes)))
        return reading


class Loading:
    """A running loader; its results are in `reads`."""

    def __init__(self, loader: MetadataLoader) -> None:
        self.loader = loader
        self._tickets = count(1)
        self.reads: queue.SimpleQueue[MetadataRead] = queue.SimpleQueue()
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        def sink(batch: MetadataReads) -> None:
            for read in batch.reads:
                self.reads.put(read)

        try:
            self.loader.run(sink, self._stop)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def want(self, *models: str, version: str = "v-1") -> None:
        self.loader.request(
            MetadataRequest((Kind.METADATA, f"ns/{model}"), f"app_{model}", version, next(self._tickets))
            for model in models
        )

    def next(self) -> MetadataRead:
        return self.reads.get(timeout=WAIT_SECONDS)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()

    def wait_ended(self) -> None:
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()


@contextmanager
def loading(loader: MetadataLoader) -> Iterator[Loading]:
    it = Loading(loader)
    try:
        yield it
    finally:
        it.stop()


def fill(folder: Path, count: int, size: int) -> list[str]:
    for number in range(count):
        (folder / f"app_m{number}").write_bytes(b"x" * size)
    return [f"m{number}" for number in range(count)]


# --- batches -----------------------------------------------------------------------------------------------


def test_batches_begin_small_and_grow(tmp_path: Path) -> None:
    store = NotedStore(tmp_path)
    with loading(MetadataLoader(store)) as it:
        it.want(*fill(tmp_path, 2_500, 1))
        assert {it.next().state for _ in range(2_500)} == {MetadataState.LOADED}
    assert store.batches == [16, 64, 256, 1_000, 1_000, 164]


def test_large_values_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    store = NotedStore(tmp_path)
    with loading(MetadataLoader(store, limits=MetadataLimits(batch_bytes=100_000))) as it:
        it.want(*fill(tmp_path, 100, 10_000))
        for _ in range(100):
            it.next()
    assert store.batches == [10] * 10
    assert max(store.sizes) <= 100_000


def test_a_value_larger_than_a_batch_is_read_alone(tmp_path: Path) -> None:
    store = NotedStore(tmp_path)
    with loading(MetadataLoader(store, limits=MetadataLimits(batch_bytes=1_000))) as it:
        it.want(*fill(tmp_path, 20, 10_000))
        for _ in range(20):
            it.next()
    assert store.batches == [1] * 20


def test_after_a_failure_batches_begin_small_again(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    store = NotedStore(folder)
    with loading(MetadataLoader(store)) as it:
        it.want(*fill(folder, 400, 1))
        for _ in range(400):
            it.next()
        folder.rename(tmp_path / "away")
        it.want(*(f"m{number}" for number in range(400)), version="v-2")
        assert it.next().reason == "no such folder"
        (tmp_path / "away").rename(folder)
        wait_for(lambda: it.loader.counters.pending == 0)
    assert store.batches[:4] == store.batches[-4:] == [16, 64, 256, 64]
    assert it.loader.counters.failures >= 1
    assert it.loader.problem == ""


class AwayStore(FolderStore):
    """A store that never answers, and counts its requests."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked = 0

    def read(
        self, keys: Sequence[str], *, limit_bytes: int, batch_bytes: int, check_size_first: Collection[str] = ()
    ) -> Reading:
        self.asked += 1
        raise StoreUnavailable("away")


@pytest.mark.fault(22)
def test_an_unavailable_store_is_not_retried_before_its_delay(tmp_path: Path) -> None:
    store, seconds = AwayStore(tmp_path), [1_000.0]
    with loading(MetadataLoader(store, clock=lambda: Now(seconds[0], 0.0))) as it:
        it.want("first")
        for times in range(1, 6):
            wait_for(lambda times=times: it.loader.counters.failures == times)  # type: ignore[misc]
            wanted = threading.Event()
            for number in range(20):  # each wakes the reading thread
                it.want(f"m{times}-{number}")
                it.loader.retry_failed()
                wanted.wait(0.005)
            assert store.asked == times, "time stands still"
            seconds[0] += 3_600.0
            it.loader.retry_failed()
        wait_for(lambda: store.asked == 6)


# --- its end -----------------------------------------------------------------------------------------------


def test_loader_ends_at_once_even_if_the_store_hangs(redis_server: RedisServer) -> None:
    redis_server.freeze()
    store = RedisStore(redis_server.url, read_timeout_seconds=3_600.0)
    with loading(MetadataLoader(store)) as it:
        it.want("m")
        wait_for(lambda: it.loader._reading_since > 0)
        time.sleep(0.05)  # so that the question is on its way, most likely
        it.stop()
        assert it.failure is None
        assert it.loader._reader is not None
        it.loader._reader.join(WAIT_SECONDS)
        assert not it.loader._reader.is_alive()
        redis_server.thaw()
        assert it.reads.empty()


def test_idle_loader_ends_at_once(tmp_path: Path) -> None:
    with loading(MetadataLoader(FolderStore(tmp_path))) as it:
        it.stop()
        assert it.failure is None


class Defective(FolderStore):
    """A store whose first read raises `error`."""

    error: BaseException | None = None

    def read(
        self, keys: Sequence[str], *, limit_bytes: int, batch_bytes: int, check_size_first: Collection[str] = ()
    ) -> Reading:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().read(keys, limit_bytes=limit_bytes, batch_bytes=batch_bytes)


def test_an_exception_in_the_store_counts_as_unavailable(tmp_path: Path) -> None:
    (tmp_path / "app_m").write_bytes(b"1")
    store = Defective(tmp_path)
    store.error = RecursionError("maximum recursion depth exceeded")
    with loading(MetadataLoader(store)) as it:
        it.want("m")
        assert it.next().reason == "unexpected RecursionError: maximum recursion depth exceeded"
        assert it.next().value == b"1"
        assert it.failure is None


def test_killed_reading_thread_ends_run_and_the_next_run_continues(tmp_path: Path) -> None:
    (tmp_path / "app_m").write_bytes(b"1")
    store = Defective(tmp_path)
    store.error = SystemExit()
    loader = MetadataLoader(store)
    with loading(loader) as it:
        it.want("m")
        it.wait_ended()
        assert isinstance(it.failure, RuntimeError)
        assert isinstance(it.failure.__cause__, SystemExit)
    with loading(loader) as it:
        assert it.next().value == b"1", "what the killed thread had taken is read"


class Hanging(FolderStore):
    """A store that hangs, as a DNS look-up may."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked = threading.Event()
        self.released = threading.Event()

    def read(
        self, keys: Sequence[str], *, limit_bytes: int, batch_bytes: int, check_size_first: Collection[str] = ()
    ) -> Reading:
        self.asked.set()
        assert self.released.wait(WAIT_SECONDS)
        return super().read(keys, limit_bytes=limit_bytes, batch_bytes=batch_bytes)


def test_a_hanging_read_is_reported_and_its_late_result_is_used(tmp_path: Path) -> None:
    (tmp_path / "app_m").write_bytes(b"1")
    store, seconds = Hanging(tmp_path), [1_000.0]
    with loading(MetadataLoader(store, clock=lambda: Now(seconds[0], 0.0))) as it:
        it.want("m")
        assert store.asked.wait(WAIT_SECONDS)
        it.want("other")
        seconds[0] += 20.0
        read = it.next()
        assert (read.row[1], read.reason) == ("ns/other", "no answer within 15 s, not even to the DNS look-up")
        assert it.loader.problem == read.reason
        store.released.set()
        assert it.next().value == b"1"
        wait_for(lambda: it.loader.problem == "")


# --- what it says ------------------------------------------------------------------------------------------


def test_store_outage_and_recovery_are_each_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    folder = tmp_path / "later"
    with loading(MetadataLoader(FolderStore(folder))) as it:
        it.want("m")
        wait_for(lambda: it.loader.counters.failures >= 3)
        assert it.loader.problem == "no such folder"
        folder.mkdir()
        (folder / "app_m").write_bytes(b"1")
        wait_for(lambda: it.loader.counters.pending == 0)
    assert [record.getMessage() for record in caplog.records] == [
        f"metadata store {folder} is unavailable: no such folder; it is tried again, routes are served meanwhile",
        f"metadata store {folder} answers again",
    ]


def test_requests_of_the_owner_thread_never_wait_for_the_store(redis_server: RedisServer) -> None:
    redis_server.freeze()
    store = RedisStore(redis_server.url, read_timeout_seconds=3_600.0)
    with loading(MetadataLoader(store)) as it:
        for number in range(1_000):
            it.want("m", version=f"v-{number}")
            it.loader.retry_failed()
        it.loader.forget([(Kind.METADATA, "ns/m")])
        assert it.loader.counters.pending == 0
        assert it.loader.counters.reads == 0
