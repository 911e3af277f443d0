"""Picking an endpoint: in turn, by key, the less busy one, the nearer one; and the error if there is none."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from shmroute.errors import NoEndpoints
from shmroute.rows import EndpointRow, EndpointsRow, EndpointsState
from shmroute.worker.endpoints import Busy, Endpoint, Pool
from shmroute.worker.position import Position
from shmroute.worker.reader import Reader
from tests.forks import Forks, Pipe
from tests.routing import RoutesArea, endpoint

WORKERS = 8
PICKS = 100_000


def pool(*rows: str | EndpointRow, zone: str = "", busy: Busy | None = None) -> Pool:
    endpoints = tuple(row if isinstance(row, EndpointRow) else endpoint(row) for row in rows)
    row = EndpointsRow("ns/app", EndpointsState.KNOWN, endpoints)
    return Pool("app", row, zone, {} if busy is None else busy, Position("unused", 1))


def addresses(count: int) -> list[str]:
    return [f"10.0.{number // 250}.{number % 250}:8060" for number in range(count)]


@pytest.fixture
def given(area: str) -> Iterator[RoutesArea]:
    with RoutesArea(area) as given:
        given.route("m")
        yield given


# --- addresses ------------------------------------------------------------------------------------------------


def test_an_endpoint_is_written_as_host_and_port() -> None:
    assert str(Endpoint("10.0.0.1", 80)) == "10.0.0.1:80"
    assert str(Endpoint("fd00::1", 80)) == "[fd00::1]:80"


def test_endpoints_have_every_field_of_their_row(given: RoutesArea, area: str) -> None:
    given.endpoints("app", endpoint("[fd00::1]:80", zone="a", node="n", pod="p"), endpoint("10.0.0.1:81"))
    assert Reader(area).resolve("m").endpoints == (
        Endpoint("fd00::1", 80, "a", "n", "p", ready=True),
        Endpoint("10.0.0.1", 81, "", "", "", ready=True),
    )


# --- round-robin ----------------------------------------------------------------------------------------------


def test_each_endpoint_comes_once_a_round() -> None:
    picked = pool(*addresses(7))
    for _ in range(3):
        assert len({str(picked.next()) for _ in range(7)}) == 7


def test_round_robin_starts_at_a_random_endpoint() -> None:
    assert len({str(pool(*addresses(50)).next()) for _ in range(100)}) > 5


@pytest.mark.parametrize("endpoints", [1, 3, 20])
def test_picks_of_many_workers_are_within_1_percent_of_even(area: str, given: RoutesArea, endpoints: int) -> None:
    def pick(pipe: Pipe) -> None:
        route = Reader(area).resolve("m")
        pipe.send(Counter(str(route.pick()) for _ in range(PICKS // WORKERS)))

    given.endpoints("app", *addresses(endpoints))
    with Forks() as forks:
        workers = [forks.start(pick) for _ in range(WORKERS)]
        counts: Counter[str] = sum((worker.pipe.recv() for worker in workers), Counter())
    assert counts.total() == PICKS
    assert set(counts) == set(addresses(endpoints))
    even = PICKS / endpoints
    assert all(abs(count - even) <= even / 100 for count in counts.values())


def test_threads_share_one_round() -> None:
    picked = pool(*addresses(10))
    counts: list[Counter[str]] = []

    def pick() -> None:
        counts.append(Counter(str(picked.next()) for _ in range(2000)))

    threads = [threading.Thread(target=pick) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(sum(counts, Counter[str]()).values()) == {1000}


# --- by key ---------------------------------------------------------------------------------------------------


KEYS = [f"user-{number}" for number in range(5000)]


def test_a_key_picks_the_same_endpoint_in_every_process(area: str, given: RoutesArea) -> None:
    def pick(pipe: Pipe) -> None:
        route = Reader(area).resolve("m")
        pipe.send([str(route.pick(key)) for key in KEYS])

    given.endpoints("app", *addresses(10))
    with Forks() as forks:
        answers = [forks.start(pick).pipe.recv() for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    reversed_pool = pool(*reversed(addresses(10)))
    assert [str(reversed_pool.pick(key)) for key in KEYS] == answers[0]
    assert [str(reversed_pool.pick(key.encode())) for key in KEYS] == answers[0]


def test_a_key_picks_the_same_endpoint_in_every_release() -> None:
    """Workers of two releases run beside each other during a roll-out."""
    picked = pool(*addresses(5))
    chosen = [addresses(5).index(str(picked.pick(key))) for key in ("a", "b", "user-1", "", "ä")]
    assert chosen == [4, 3, 1, 0, 4]


def test_keys_spread_evenly() -> None:
    picked = pool(*addresses(10))
    counts = Counter(str(picked.pick(f"key {number}")) for number in range(50_000))
    assert len(counts) == 10
    assert all(abs(count - 5000) < 300 for count in counts.values()), "four standard deviations"


def test_endpoints_with_equal_checksums_share_their_keys() -> None:
    """`plumless` and `buckeroo` have the same CRC-32, even if the same text is appended to both."""
    picked = pool("plumless:80", "buckeroo:80")
    counts = Counter(str(picked.pick(key)) for key in KEYS)
    assert all(abs(count - 2500) < 200 for count in counts.values())
    assert len(counts) == 2


@pytest.mark.parametrize("endpoints", [2, 5, 20])
def test_removing_an_endpoint_moves_only_its_keys(endpoints: int) -> None:
    all_of_them = addresses(endpoints)
    full = pool(*all_of_them)
    before = {key: str(full.pick(key)) for key in KEYS}
    for gone in all_of_them[:5]:
        fewer = pool(*(address for address in all_of_them if address != gone))
        moved = [key for key in KEYS if str(fewer.pick(key)) != before[key]]
        assert all(before[key] == gone for key in moved)
        assert abs(len(moved) - len(KEYS) / endpoints) < 5 * (len(KEYS) / endpoints) ** 0.5


@for_all(
    ports=st.sets(st.integers(1, 65535), min_size=1, max_size=20), key=st.text() | st.binary(), gone=st.integers(0, 19)
)
def test_a_key_moves_only_when_its_endpoint_is_removed(ports: set[int], key: str | bytes, gone: int) -> None:
    rows = [f"10.0.0.1:{port}" for port in sorted(ports)]
    if isinstance(key, str):
        key = key.encode(errors="replace")
    before = str(pool(*rows).pick(key))
    leaving = rows[gone % len(rows)]
    left = [row for row in rows if row != leaving]
    if left and leaving != before:
        assert str(pool(*left).pick(key)) == before


# --- two choices ----------------------------------------------------------------------------------------------


def test_the_less_busy_of_two_is_picked() -> None:
    busy: Busy = {"10.0.0.0:8060": deque([None] * 3)}
    picked = pool(*addresses(2), busy=busy)
    for _ in range(20):
        with picked.lease() as chosen:
            assert str(chosen) == "10.0.0.1:8060"


def test_least_busy_spreads_leases_more_evenly_than_chance() -> None:
    """Two choices leave a maximum of about log log n over the mean, one choice about log n / log log n."""
    busy: Busy = {}
    picked = pool(*addresses(50), busy=busy)
    opened = [picked.lease() for _ in range(1000)]
    for connection in opened:
        connection.__enter__()
    assert sum(map(len, busy.values())) == 1000
    assert max(map(len, busy.values())) <= 20 + 4
    for connection in opened:
        connection.__exit__(None, None, None)
    assert busy == {}, "and nothing is left"


def test_a_lease_ends_with_its_block_even_on_an_error() -> None:
    busy: Busy = {}
    picked = pool(*addresses(3), busy=busy)

    def fail() -> None:
        with picked.lease() as chosen:
            assert len(busy[str(chosen)]) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert busy == {}


def test_counts_survive_a_change_of_the_row(given: RoutesArea, area: str) -> None:
    given.endpoints("app", *addresses(2))
    with Reader(area) as reader:
        route = reader.resolve("m")
        with route.lease() as first, route.lease() as second:
            assert {str(first), str(second)} == set(addresses(2))
            given.endpoints("app", str(first), "10.9.9.9:1")
            for _ in range(10):
                with route.lease() as third:
                    assert str(third) == "10.9.9.9:1", "the one that stayed is still busy"
        assert reader._binding.busy == {}


def test_counts_stay_right_under_threads() -> None:
    busy: Busy = {}
    picked = pool(*addresses(3), busy=busy)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(3000):
                with picked.lease():
                    pass
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert busy == {}


def test_a_single_endpoint_is_always_picked() -> None:
    picked = pool("10.0.0.1:80")
    with picked.lease() as one, picked.lease() as two:
        assert one == two


# --- which ones may be picked ---------------------------------------------------------------------------------


def test_terminating_endpoints_are_picked_only_while_none_is_ready() -> None:
    leaving = endpoint("10.0.0.1:80", ready=False, serving=True, terminating=True)
    starting = endpoint("10.0.0.2:80", ready=False, serving=False)
    ready = endpoint("10.0.0.3:80")
    gone = endpoint("10.0.0.4:80", ready=False, serving=False, terminating=True)
    both = pool(leaving, starting, ready, gone)
    assert [str(each) for each in both.endpoints] == ["10.0.0.3:80"]
    assert {str(both.next()) for _ in range(9)} == {"10.0.0.3:80"}
    last = pool(leaving, starting, gone)
    assert [(str(each), each.ready) for each in last.endpoints] == [("10.0.0.1:80", False)]
    assert str(last.pick("k")) == "10.0.0.1:80"
    with pytest.raises(NoEndpoints):
        pool(starting, gone).next()


def near(number: int, *hints: str, **changes: bool) -> EndpointRow:
    return endpoint(f"10.0.0.{number}:80", hints=hints, **changes)


@pytest.mark.parametrize(
    ("zone", "rows", "picked"),
    [
        pytest.param("a", [near(1, "a"), near(2, "b"), near(3, "a", "b")], {1, 3}, id="those meant for the zone"),
        pytest.param("c", [near(1, "a"), near(2, "b")], {1, 2}, id="all, if none is meant for it"),
        pytest.param("a", [near(1, "a"), near(2)], {1, 2}, id="all, if one has no hint"),
        pytest.param("", [near(1, "a"), near(2, "b")], {1, 2}, id="all, if the zone is not known"),
        pytest.param("a", [near(1), near(2)], {1, 2}, id="all, without hints"),
        pytest.param("a", [near(1, "a", ready=False), near(2, "b"), near(3, "a")], {3}, id="only ready ones"),
        pytest.param("a", [near(1, "a", ready=False), near(2, "b")], {2}, id="one that is not ready is not near"),
        pytest.param("a", [near(1, "a"), near(2, ready=False)], {1}, id="hints of ready ones alone count"),
    ],
)
def test_zones_are_preferred_if_every_endpoint_has_hints(zone: str, rows: list[EndpointRow], picked: set[int]) -> None:
    zoned = pool(*rows, zone=zone)
    assert {str(zoned.next()) for _ in range(10)} == {f"10.0.0.{number}:80" for number in picked}
    assert {str(zoned.pick(f"{number}")) for number in range(100)} == {f"10.0.0.{number}:80" for number in picked}
    assert len(zoned.endpoints) == sum(row.ready for row in rows), "a preference, not a filter of what there is"


def test_the_zone_comes_from_the_argument_or_the_environment(
    given: RoutesArea, area: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given.endpoints("app", near(1, "a"), near(2, "b"))
    monkeypatch.setenv("SHMROUTE_ZONE", "b")
    assert {str(Reader(area).resolve("m").pick()) for _ in range(9)} == {"10.0.0.2:80"}
    assert {str(Reader(area, zone="a").resolve("m").pick()) for _ in range(9)} == {"10.0.0.1:80"}
    assert len({str(Reader(area, zone="").resolve("m").pick()) for _ in range(30)}) == 2


# --- none -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["pick", "key", "lease"])
def test_no_endpoint_raises_with_the_reason(given: RoutesArea, area: str, use: str) -> None:
    route = Reader(area).resolve("m")

    def call() -> None:
        match use:
            case "pick":
                route.pick()
            case "key":
                route.pick("k")
            case _:
                route.lease().__enter__()

    def reason() -> NoEndpoints:
        with pytest.raises(NoEndpoints) as caught:
            call()
        assert route.endpoints == ()
        assert caught.value.app == "app"
        return caught.value

    assert reason().reason == "not known"
    given.endpoints("app", state=EndpointsState.UNKNOWN)
    assert reason().reason == "not known"
    given.endpoints("app")
    assert reason().reason == "known empty"
    assert "ns/app" in str(reason())
    given.endpoints("app", state=EndpointsState.AMBIGUOUS_PORT, detail="http, grpc")
    assert (reason().reason, reason().detail) == ("ambiguous port", "http, grpc")
    assert "http, grpc" in str(reason())
    given.endpoints("app", endpoint("10.0.0.1:80", ready=False, serving=False))
    assert reason().reason == "known empty"
    given.endpoints("app", "10.0.0.1:80")
    assert str(route.pick()) == "10.0.0.1:80"
