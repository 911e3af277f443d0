"""Values from a Redis server to workers; the server itself counts the reads."""

from __future__ import annotations

import json

import msgspec
import orjson
import pytest

from shmroute import MetadataNotJson
from shmroute.metadata.loader import MetadataLimits
from shmroute.metadata.redis_store import RedisStore
from shmroute.rows import Kind, MetadataRow, MetadataState
from shmroute.shm.reader import RowReader
from tests.metadata.redis_groups import wait_for
from tests.metadata.watching import Watching, appmodel, watching
from tests.redis_server import RedisServer

READS = ("mget", "get", "getrange", "strlen", "exists", "type", "eval")


def fill(server: RedisServer, values: dict[str, bytes | str]) -> None:
    with server.client() as client:
        client.mset(values)


def commands(server: RedisServer) -> int:
    """Return the number of commands about keys that the server has received."""
    stats = server.commandstats()
    return sum(stats.get(name, 0) for name in READS)


def keys_read(server: RedisServer) -> int:
    """Return the number of keys that the server has looked up, found or not."""
    with server.client() as client:
        stats: dict[str, int] = client.info("stats")
    return stats["keyspace_hits"] + stats["keyspace_misses"]


def value(version: str, size: int = 0) -> bytes:
    return json.dumps({"version": version, "schema": "x" * size}).encode()


# --- once per version --------------------------------------------------------------------------------------


def ten_thousand() -> list[dict[str, str]]:
    """Return the models of 100 apps."""
    return [{f"model-{app:02}-{number:03}": "v-1" for number in range(100)} for app in range(100)]


def test_ten_thousand_models_are_read_once_and_then_only_what_changes(redis_server: RedisServer, area: str) -> None:
    models = ten_thousand()
    names = [model for part in models for model in part]
    fill(redis_server, {f"app-{model[6:8]}_{model}": value("v-1", 4_000) for model in names})
    redis_server.reset_stats()
    appmodels = [appmodel(f"app-{number:02}", part) for number, part in enumerate(models)]
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list(appmodels)
        it.wait_loaded(*names)
        assert commands(redis_server) <= 25
        assert keys_read(redis_server) == 10_000
        assert all(it.reader.resolve(model).metadata["version"] == "v-1" for model in names)
        assert it.counters.reads == 10_000
        assert it.counters.pending == 0

        redis_server.reset_stats()
        for _ in range(10):
            it.resync()
        it.list(appmodels)
        it.change(appmodel("app-07", models[7], version="v-2"))
        it.wait_routed(names[700], "v-1", app_version="v-2")
        assert commands(redis_server) == 0, "resyncs, a new list and a new version of an app read nothing"

        fill(redis_server, {f"app-07_{names[700]}": value("v-2")})
        redis_server.reset_stats()
        it.change(appmodel("app-07", {**models[7], names[700]: "v-2"}, version="v-3"))
        it.wait_routed(names[700], "v-2")
        it.wait_loaded(names[700])
        assert it.reader.resolve(names[700]).metadata_version == "v-2"
        assert (commands(redis_server), keys_read(redis_server)) == (1, 1)
        assert it.skipped == 199


def test_a_model_that_moves_to_another_app_is_read_from_there(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"one_m": b'"of one"', "two_m": b'"of two"'})
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("one", {"m": "v-1"}), appmodel("two", {"other": "v-1"})])
        it.wait_loaded("m")
        assert it.reader.resolve("m").metadata == "of one"
        it.list([appmodel("one", {"other": "v-1"}), appmodel("two", {"m": "v-1"})])
        wait_for(lambda: it.reader.resolve("m").app == "two")
        assert it.reader.resolve("m").metadata in ("of two", None)
        it.wait_loaded("m")
        assert it.reader.resolve("m").metadata == "of two"


def test_only_the_winner_of_a_conflict_costs_a_read(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"first_m": b"1", "second_m": b"2"})
    first = appmodel("first", {"m": "v-1"}, created="2026-01-01T00:00:00Z")
    second = appmodel("second", {"m": "v-1"}, created="2026-01-02T00:00:00Z")
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([first, second])
        it.wait_loaded("m")
        assert it.reader.resolve("m").metadata == 1
        assert keys_read(redis_server) == 1
        redis_server.freeze()
        it.change(appmodel("second", {"m": "v-2"}, created="2026-01-02T00:00:00Z"))
        it.settle()
        assert {pending.key for pending in it.loader._scheduler.pending.values()} == {"marker_marker"}
        redis_server.thaw()
        it.delete("first")
        wait_for(lambda: it.reader.resolve("m").app == "second")
        it.wait_loaded("m")
        assert it.reader.resolve("m").metadata == 2


def test_the_metadata_row_of_a_removed_model_is_removed(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_a": b"1", "app_b": b"2"})
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", {"a": "v-1", "b": "v-1"})])
        it.wait_loaded("a", "b")
        it.change(appmodel("app", {"b": "v-1"}, version="v-2"))
        wait_for(lambda: it.reader.get("a") is None)
        assert set(rows(area)) == {"meta-test/b"}


def rows(area: str) -> dict[str, MetadataRow]:
    """Return the published METADATA rows."""
    found = RowReader(area).rows(Kind.METADATA)
    return {key: msgspec.msgpack.decode(row, type=MetadataRow) for _, key, row in found}


# --- what a worker is told ---------------------------------------------------------------------------------


def test_states_absent_pending_and_loaded_are_distinguished(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_json": b'{"a": 1}', "app_raw": b"\xff\x00not JSON"})
    with watching(area, RedisStore(redis_server.url)) as it:
        redis_server.freeze()
        it.list([appmodel("app", {"json": "v-1", "raw": "v-2", "none": "v-3"})])
        it.wait_routed("json", "v-1")
        for model in ("json", "raw", "none"):
            route = it.reader.resolve(model)
            assert (route.metadata_state, route.metadata, route.metadata_bytes) == ("pending", None, None)
            assert route.metadata_version is None
        redis_server.thaw()
        it.wait_loaded("json", "raw")
        it.wait_state("none", "missing", "no such key")
        route = it.reader.resolve("json")
        assert (route.metadata, route.metadata_bytes, route.metadata_version) == ({"a": 1}, b'{"a": 1}', "v-1")
        route = it.reader.resolve("raw")
        assert (route.metadata_bytes, route.metadata_version) == (b"\xff\x00not JSON", "v-2")
        with pytest.raises(MetadataNotJson):
            _ = route.metadata
        route = it.reader.resolve("none")
        assert (route.metadata_state, route.metadata, route.metadata_bytes) == ("missing", None, None)


def test_a_value_is_decoded_once_per_worker_and_change(
    redis_server: RedisServer, area: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(redis_server, {"app_a": value("v-1"), "app_b": value("v-1")})
    decoded: list[bytes] = []
    loads = orjson.loads

    def counted(raw: bytes) -> object:
        decoded.append(raw)
        return loads(raw)

    monkeypatch.setattr(orjson, "loads", counted)
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", {"a": "v-1", "b": "v-1"})])
        it.wait_loaded("a", "b")
        first = it.reader.resolve("a").metadata
        for _ in range(100):
            assert it.reader.resolve("a").metadata is first
        assert len(decoded) == 1
        fill(redis_server, {"app_b": value("v-2")})
        it.change(appmodel("app", {"a": "v-1", "b": "v-2"}, version="v-2"))
        it.wait_routed("b", "v-2")
        it.wait_loaded("b")
        assert it.reader.resolve("a").metadata is first, "another model's change costs no decode"
        assert it.reader.resolve("b").metadata["version"] == "v-2"
        assert len(decoded) == 2


@pytest.mark.fault(22)
def test_held_route_gives_the_value_of_its_version_when_asked_later(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_m": value("v-1")})
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", {"m": "v-1"})])
        it.wait_loaded("m")
        held = it.reader.resolve("m")
        assert held.metadata_version == "v-1"
        fill(redis_server, {"app_m": value("v-2")})
        it.change(appmodel("app", {"m": "v-2"}, version="v-2"))
        it.wait_routed("m", "v-2")
        it.wait_loaded("m")
        assert it.reader.resolve("m").metadata["version"] == "v-2"
        assert (held.metadata_version, held.metadata["version"]) == ("v-1", "v-1")
        assert held.metadata_bytes == value("v-1")


# --- never an old value under a new version ----------------------------------------------------------------


def test_an_old_value_stays_under_its_old_version(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_m": value("v-1")})
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", {"m": "v-1"})])
        it.wait_loaded("m")
        it.change(appmodel("app", {"m": "v-2"}, version="v-2"))
        it.wait_state("m", "outdated", "the value says version 'v-1'")
        route = it.reader.resolve("m")
        assert (route.version, route.metadata, route.metadata_bytes) == ("v-2", None, None)
        assert (route.metadata_version, route.last_metadata["version"]) == ("v-1", "v-1")
        assert route.last_metadata_bytes == value("v-1")
        fill(redis_server, {"app_m": value("v-2")})
        it.wait_loaded("m")
        route = it.reader.resolve("m")
        assert (route.version, route.metadata_version, route.metadata["version"]) == ("v-2", "v-2", "v-2")


def test_route_gives_the_value_of_its_own_version_or_none(redis_server: RedisServer, area: str) -> None:
    """This holds in any order of reading, and for a route held for any time."""
    fill(redis_server, {"app_m": value("v-1")})
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", {"m": "v-1"})])
        it.wait_loaded("m")
        asked, never_asked = it.reader.resolve("m"), it.reader.resolve("m")
        never_asked = type(never_asked)(*never_asked._public())  # one that has not looked its metadata up
        assert asked.metadata["version"] == "v-1"

        it.change(appmodel("app", {"m": "v-2"}, version="v-2"))
        it.wait_state("m", "outdated", "the value says version 'v-1'")
        held = it.reader.resolve("m")
        assert (held.version, held.metadata, held.last_metadata["version"]) == ("v-2", None, "v-1")

        fill(redis_server, {"app_m": value("v-2")})
        it.wait_loaded("m")
        assert held.metadata["version"] == "v-2", "a route that is held gets its value when it is there"
        assert (held.metadata_version, held.metadata_state) == ("v-2", "loaded")
        assert asked.metadata["version"] == "v-1"
        assert (never_asked.version, never_asked.metadata, never_asked.metadata_bytes) == ("v-1", None, None)
        assert never_asked.last_metadata["version"] == "v-2"


def test_route_that_is_held_never_gives_the_value_of_another_app(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"one_m": b'"of one"', "two_m": b'"of two"'})
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("one", {"m": "v-1"}), appmodel("two", {"other": "v-1"})])
        it.wait_loaded("m")
        held = it.reader.resolve("m")
        held = type(held)(*held._public())  # one that has not looked its metadata up
        it.list([appmodel("one", {"other": "v-1"}), appmodel("two", {"m": "v-1"})])
        wait_for(lambda: it.reader.resolve("m").metadata == "of two")
        assert (held.app, held.metadata, held.last_metadata, held.metadata_version) == ("one", None, None, None)


def test_a_missing_key_is_loaded_soon_after_it_is_written(redis_server: RedisServer, area: str) -> None:
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", {"m": "v-1"})])
        it.wait_state("m", "missing", "no such key")
        [pending] = it.loader._scheduler.pending.values()
        assert (pending.key, pending.state) == ("app_m", MetadataState.MISSING)
        fill(redis_server, {"app_m": b"7"})
        it.wait_loaded("m")
        assert it.reader.resolve("m").metadata == 7
        assert it.counters.pending == 0


def test_the_last_value_stays_while_the_new_one_is_missing(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_m": b'"one"'})
    with watching(area, RedisStore(redis_server.url)) as it:
        it.list([appmodel("app", {"m": "v-1"})])
        it.wait_loaded("m")
        with redis_server.client() as client:
            client.delete("app_m")
        it.change(appmodel("app", {"m": "v-2"}, version="v-2"))
        it.wait_state("m", "missing")
        route = it.reader.resolve("m")
        assert (route.metadata, route.last_metadata, route.metadata_version) == (None, "one", "v-1")


def test_a_resync_retries_only_failed_values(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_small": b"1", "app_large": b"x" * 2_000, "app_other": b"2"})
    with watching(area, RedisStore(redis_server.url), limits=MetadataLimits(value_bytes=1_000)) as it:
        it.list([appmodel("app", {"small": "v-1", "large": "v-1", "other": "v-1"})])
        it.wait_loaded("small", "other")
        it.wait_state("large", "too-large")
        redis_server.reset_stats()
        it.resync()
        wait_for(lambda: commands(redis_server) == 1)
        stats = redis_server.commandstats()
        assert (stats["strlen"], stats.get("mget", 0)) == (1, 0), "its size is asked for, not its value"
        fill(redis_server, {"app_large": b"3"})
        it.resync()
        it.wait_loaded("large")
        assert it.reader.resolve("large").metadata == 3


# --- a new watcher -----------------------------------------------------------------------------------------


def test_a_new_watcher_serves_loaded_values_while_rereading_them(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_same": b"1", "app_other": b"2", "app_gone": b"3"})
    store = RedisStore(redis_server.url, read_timeout_seconds=0.5)
    with watching(area, store) as it:
        it.list([appmodel("app", {"same": "v-1", "other": "v-1", "gone": "v-1", "unlisted": "v-1"})])
        it.wait_loaded("same", "other", "gone")
        it.wait_state("unlisted", "missing")
    before = rows(area)
    redis_server.freeze()
    store = RedisStore(redis_server.url, read_timeout_seconds=0.5)
    with watching(area, store) as it:
        it.list([appmodel("app", {"same": "v-1", "other": "v-1", "gone": "v-1"})])
        wait_for(lambda: bool(it.loader.problem))
        it.settle()
        after = rows(area)
        for model in ("same", "other", "gone"):
            assert after[f"meta-test/{model}"] == before[f"meta-test/{model}"]
        assert "meta-test/unlisted" not in after
        redis_server.thaw()
        with redis_server.client() as client:
            client.set("app_other", b"22")
            client.delete("app_gone")
        wait_for(lambda: it.counters.reads >= 3)
        it.wait_state("gone", "missing")
        wait_for(lambda: it.reader.resolve("other").metadata == 22)
        assert rows(area)["meta-test/same"] == before["meta-test/same"]
        route = it.reader.resolve("gone")
        assert (route.metadata, route.last_metadata, route.metadata_version) == (3, 3, "v-1"), "of its own version"


def test_counters_count_reads_and_their_outcomes(redis_server: RedisServer, area: str) -> None:
    fill(redis_server, {"app_a": b"12", "app_b": b"x" * 100})
    with watching(area, RedisStore(redis_server.url), limits=MetadataLimits(value_bytes=50)) as it:
        assert all_zero(it)
        it.list([appmodel("app", {"a": "v-1", "b": "v-1"})])
        it.wait_loaded("a")
        it.wait_state("b", "too-large")
        counters = it.counters
        assert (counters.reads, counters.read_commands) == (2, 1)
        assert (counters.pending, counters.failures) == (1, 0)
        it.change(appmodel("app", {"a": "v-1", "b": "v-1"}, version="v-2"))
        it.wait_routed("a", "v-1", app_version="v-2")
        assert it.skipped == 2


def all_zero(it: Watching) -> bool:
    return not any(getattr(it.counters, field) for field in it.counters.__struct_fields__)
