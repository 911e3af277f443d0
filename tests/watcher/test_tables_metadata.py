"""Rows of declared tables have metadata from Redis, read by version as that of models."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from shmroute import Reader, TableValueError
from tests.redis_server import RedisServer
from tests.watcher.running import wait_for
from tests.watcher.test_tables_live import Place, config_map

PLANS = "  plans: {{resource: configmaps.v1, value: .data, redis: {{key: '{key}', version: .data.version}}}}\n"


class Plan(msgspec.Struct):
    price: int
    version: str = ""


def test_metadata_of_a_row_is_read_again_only_when_its_version_changes(
    redis_server: RedisServer, area: str, tmp_path: Path
) -> None:
    place = Place(area, tmp_path)
    place.options = msgspec.structs.replace(place.options, redis=redis_server.url, resync_seconds=1.0)
    place.declare(PLANS.format(key="plan_{.data.tier}"))
    place.put(config_map("gold", {"version": "1", "tier": "g"}))
    with redis_server.client() as redis, place.watching() as watcher:
        redis.set("plan_g", b'{"price": 9}')
        plans = Reader(area).table("plans")
        plans.wait_ready(60)
        wait_for(lambda: plans.metadata("gold").current)
        gold = plans.metadata("gold", Plan)
        assert (gold.value, gold.version, gold.wanted, gold.state) == (Plan(9), "1", "1", "loaded")
        with pytest.raises(KeyError):
            plans.metadata("silver")
        with pytest.raises(TableValueError, match=r"plans.*gold.*Expected"):
            plans.metadata("gold", list[int])

        def reads() -> int:
            metadata = watcher.status.metadata
            assert metadata is not None
            return metadata.reads

        wait_for(lambda: reads() > 0)
        before = reads()
        place.put(config_map("gold", {"version": "1", "tier": "g", "colour": "yellow"}))
        wait_for(lambda: "colour" in plans["gold"])
        place.put(config_map("last", {"version": "7", "tier": "none"}))
        wait_for(lambda: plans.metadata("last").state == "missing" if "last" in plans else False)
        redis.set("plan_none", b"7")
        wait_for(lambda: plans.metadata("last").value == 7)
        assert plans.metadata("gold").value == {"price": 9}
        settled = reads()
        redis.set("plan_g", b'{"price": 10}')
        wait_for(lambda: watcher.status.now > 0 and reads() == settled)
        assert plans.metadata("gold", Plan).value == Plan(9), "no read without a new version, whatever is written"
        assert settled >= before

        redis.set("plan_g", b'{"price": 11, "version": "1"}')
        place.put(config_map("gold", {"version": "2", "tier": "g"}))
        wait_for(lambda: plans.metadata("gold").state == "outdated")
        gold = plans.metadata("gold", Plan)
        assert (gold.value, gold.version, gold.wanted) == (Plan(9), "1", "2"), (
            "never the old value under the new version"
        )
        redis.set("plan_g", b'{"price": 12, "version": "2"}')
        wait_for(lambda: plans.metadata("gold").current)
        assert plans.metadata("gold", Plan) == plans.metadata("gold", Plan)
        assert plans.metadata("gold", Plan).value == Plan(12, "2")

        redis.set("tier_g", b'{"price": 20}')
        place.declare(PLANS.format(key="tier_{.data.tier}"))
        wait_for(lambda: plans.metadata("gold").value == {"price": 20})
        place.declare("  plans: {resource: configmaps.v1}\n")
        wait_for(lambda: plans.metadata("gold").state == "off")


def test_an_object_without_a_version_is_set_aside(area: str, tmp_path: Path) -> None:
    place = Place(area, tmp_path)
    place.declare(PLANS.format(key="plan_{key}"))
    place.put(config_map("gold", {"version": "1"}), config_map("old", {}))
    with place.watching() as watcher:
        plans = Reader(area).table("plans")
        plans.wait_ready(60)
        assert list(plans) == ["gold"]
        wait_for(lambda: watcher.status.invalid == 1)
        assert plans.metadata("gold").state == "off", "there is no store"
