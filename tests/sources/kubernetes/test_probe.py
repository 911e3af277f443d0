"""A quiet watch, a dead one, a server gone back in time: told apart, at the price of a reconnect at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec
import pytest

from shmroute.errors import ApiError
from shmroute.kube.connection import Abort, Connection
from shmroute.resources.registry import APPMODELS
from shmroute.sources.base import Replaced
from shmroute.sources.kubernetes.api import ResourceApi
from shmroute.sources.kubernetes.probe import Liveness
from shmroute.sources.kubernetes.sync_state import Ledger
from shmroute.sources.kubernetes.timing import PROBE_PERIOD_SECONDS, SourceStats, Timing
from tests.apiserver import ApiServer, app_model
from tests.sources.kubernetes.following import CALM, LIVELY, PATIENT, Following


def test_a_probe_is_a_pair_of_small_requests(api: ApiServer, connection: Connection) -> None:
    with Following(connection, selector="iidp=iidp", timing=LIVELY) as follow:
        follow.wait_watched(api)
        follow.wait_probes(1)

        cache, quorum = api.requests.select("list")[:2]
        name = {"fieldSelector": "metadata.name=-probe-"}
        assert cache.query == {**name, "resourceVersion": "0"}
        assert quorum.query == name


def test_a_quiet_server_is_never_peeked_at(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        before = follow.contact_ns
        follow.wait_probes(4)

        assert follow.source.stats.peeks == 0
        assert follow.contact_ns > before


def test_a_peek_that_sees_nothing_is_remembered(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=PATIENT) as follow:
        follow.wait_watched(api)
        api.apply(app_model("one", version="v2"))
        follow.wait_for(api)
        position = api.revision
        for _ in range(3):
            before, peeks = follow.contact_ns, follow.source.stats.peeks
            api.bump(10)
            while follow.source.stats.peeks == peeks:
                follow.wait_probes(1)
            follow.wait_contact(before)
        peeks = follow.source.stats.peeks
        follow.wait_probes(3)

        assert follow.source.stats.peeks == peeks == 3
        starts = [int(each.query["resourceVersion"]) for each in api.requests.select("watch")[-3:]]
        assert starts == [position, position + 10, position + 20]
        assert follow.source.stats.restarts == {}


def test_an_event_that_the_watch_tells_as_well_is_no_alarm(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=PATIENT) as follow:
        follow.wait_watched(api)
        for number in range(60):
            api.apply(app_model("one", version=f"v{number}"))
            follow.stop.wait(0.01)
        follow.wait_probes(2)

        assert follow.source.stats.restarts == {}


def test_events_held_back_are_fetched_by_a_new_watch_without_a_list(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=msgspec.structs.replace(LIVELY, grace_seconds=2.0)) as follow:
        dead = follow.wait_watched(api)
        api.watches.is_paused = lambda watch: watch is dead
        api.apply(app_model("two"))
        follow.wait_for(api)

        assert follow.source.stats.restarts == {"silent": 1}
        assert follow.source.stats.lists == 1


def test_a_peek_that_comes_too_late_to_see_makes_the_source_look_itself(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=msgspec.structs.replace(LIVELY, grace_seconds=2.0)) as follow:
        dead = follow.wait_watched(api)
        api.watches.is_paused = lambda watch: watch is dead
        with api.store.lock:
            api.apply(app_model("two"))
            api.faults.compact()

        follow.wait_for(api)
        assert follow.source.stats.restarts == {"silent": 1, "gone": 1}


def test_where_nothing_tells_whether_something_is_missing_lists_grow_rare(
    api: ApiServer, connection: Connection
) -> None:
    """A server without bookmarks, its other resources busy: it would be listed for ever."""
    timing = msgspec.structs.replace(LIVELY, probe_wait_seconds=(0.01, 0.01), peek_seconds=1, grace_seconds=0.01)
    api.settings.clock = lambda: time.monotonic() * 50
    with Following(connection, timing=timing) as follow:
        follow.wait_watched(api)
        target = follow.source.stats.probes + 36
        while follow.source.stats.probes < target:
            api.bump()
            follow.wait_probes(1)

        doubts = follow.source.stats.restarts["doubt"]  # each a reconnect and a list
        assert 2 <= doubts <= 2 * 10  # of 36 probes: 0.01 s and doubling leave room for no more
        assert follow.source.stats.errors == 0


def test_doubt_is_settled_by_a_list_where_streams_tell_nothing(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        with api.faults.silence():
            api.apply(app_model("two"))
            follow.wait_for(api)

        assert follow.source.stats.restarts.keys() == {"doubt"}


def test_a_probe_without_an_answer_once_is_no_alarm(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=msgspec.structs.replace(LIVELY, probe_timeout_seconds=1.0)) as follow:
        follow.wait_watched(api)
        api.faults.hang(times=1, verb="list")
        follow.wait_probes(3)

        assert follow.source.stats.restarts == {}


def test_a_probe_that_is_refused_says_why_and_leaves_the_watch_alone(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        with api.faults.forbidden(verb="list"):
            follow.wait(lambda: follow.reason.startswith("the probe fails: not allowed to list appmodels.iidp.com"))
            contact = follow.contact_ns
            api.requests.wait(len(api.requests) + 2)
            assert follow.contact_ns == contact
        follow.wait(lambda: follow.contact_ns > contact)

        assert follow.reason == ""
        assert follow.phases[-1] == "watching"
        assert follow.source.stats.restarts == {}


def test_a_probe_waits_as_long_as_it_is_told_to(api: ApiServer, connection: Connection) -> None:
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        api.faults.too_many_requests(times=1, retry_after=3600, verb="list")
        follow.wait(lambda: "429" in follow.reason)
        asked = len(api.requests)
        follow.stop.wait(LIVELY.probe_wait_seconds[1] * 4)

        assert len(api.requests) == asked


@pytest.mark.parametrize("streams", ["cut", "left open"])
def test_a_server_that_went_back_in_time_is_listed_again(api: ApiServer, connection: Connection, streams: str) -> None:
    api.apply(app_model("one"))
    backup = api.faults.backup()
    with Following(connection, timing=LIVELY) as follow:
        api.apply(app_model("two"))
        follow.wait_for(api)
        api.faults.rewind(backup, end_streams=streams == "cut")

        follow.wait(lambda: follow.names == {"one"})
        follow.wait_for(api)
        assert "rewound" in follow.source.stats.restarts
        api.apply(app_model("three"))
        follow.wait_for(api)


def test_time_gone_back_is_seen_even_where_our_own_position_is_older(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    with Following(connection, timing=LIVELY) as follow:
        follow.wait_watched(api)
        api.apply(app_model("one", version="v2"))
        follow.wait_for(api)
        backup = api.faults.backup()
        highest = api.bump(100)
        follow.wait(lambda: follow.source._ledger.highest >= highest)
        api.faults.rewind(backup)

        follow.wait(lambda: "rewound" in follow.source.stats.restarts)
        follow.wait(lambda: follow.source._ledger.highest == api.revision)
        restarts = dict(follow.source.stats.restarts)
        follow.wait_probes(2)
        assert follow.source.stats.restarts == restarts


def test_an_event_from_before_what_came_last_makes_the_source_list_again(
    api: ApiServer, connection: Connection
) -> None:
    api.apply(app_model("one"))
    backup = api.faults.backup()
    with Following(connection, timing=CALM) as follow:
        follow.wait_watched(api)
        for number in range(5):
            api.apply(app_model("two", version=f"v{number}"))
        follow.wait_for(api)
        stale = b'{"type":"ADDED","object":{"metadata":{"name":"x","namespace":"default","resourceVersion":"%d"}}}\n'
        api.faults.rewind(backup)
        api.faults.inject(stale % api.revision)

        follow.wait_for(api)
        assert follow.source.stats.restarts == {"rewound": 1}
        assert len(follow.of(Replaced)) == 2


def test_the_longest_wait_a_peek_or_the_grace_and_the_round_trips_fit_in_a_probe_period() -> None:
    timing = Timing()
    shortest, longest = timing.probe_wait_seconds
    busy = 0.5  # for some requests of milliseconds, on a busy machine

    assert longest + timing.grace_seconds + busy <= PROBE_PERIOD_SECONDS
    assert longest + timing.peek_seconds + busy <= PROBE_PERIOD_SECONDS
    assert longest / 2 < shortest < longest


class Clock(threading.Event):
    """A `stop` that lets nobody wait: time passes at once, and is noted. `time.monotonic` while in use."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.now = 1000.0
        self.waited: list[float] = []
        self._waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        seconds = timeout or 0.0
        self.now += max(0.0, seconds)
        self.waited.append(seconds)
        return len(self.waited) > self._waits


def waits_after_probes(
    monkeypatch: pytest.MonkeyPatch, connection: Connection, timing: Timing, probe: Callable[[Clock], None]
) -> list[float]:
    """The waits of the probe's loop, the first left out, where each probe does that."""
    clock = Clock(waits=50)
    api = ResourceApi(connection, APPMODELS, None, "")
    liveness = Liveness(api, Ledger(), Unwatched(), timing, SourceStats(), stop=clock, abort=Abort())
    monkeypatch.setattr("shmroute.sources.kubernetes.probe.time.monotonic", lambda: clock.now)
    monkeypatch.setattr(liveness, "probe", lambda: probe(clock))
    liveness.run()
    return clock.waited[1:]


class Unwatched:
    """A watch that takes everything and does nothing."""

    watching = True

    def reconnect(self, reason: str) -> None: ...

    def relist(self, reason: str) -> None: ...

    def in_step(self, contact_ns: int) -> None: ...

    def note(self, problem: str) -> None: ...


def test_what_a_probe_takes_is_a_part_of_the_wait_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    timing = Timing()
    shortest, longest = timing.probe_wait_seconds

    def peeks_in_vain(clock: Clock) -> None:
        clock.now += timing.peek_seconds

    waits = waits_after_probes(monkeypatch, connection, timing, peeks_in_vain)

    assert len(waits) == 50
    assert all(shortest <= wait + timing.peek_seconds <= longest for wait in waits)
    assert len(set(waits)) > 1  # drawn, each time


def test_after_a_probe_without_an_answer_the_whole_wait_follows(
    monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    timing = Timing()
    shortest, longest = timing.probe_wait_seconds

    def hangs(clock: Clock) -> None:
        clock.now += timing.probe_timeout_seconds
        raise ApiError("GET", 0, "TimedOut", "no answer")

    waits = waits_after_probes(monkeypatch, connection, timing, hangs)

    assert all(shortest <= wait <= longest for wait in waits)
