"""Redis Clusters: unavailable nodes, moved nodes, and slots during a migration."""

from __future__ import annotations

import socket
import time

import pytest
from redis.crc import key_slot

from shmroute.metadata.redis_store import RedisStore
from shmroute.metadata.store import Absent, Found, StoreUnavailable
from shmroute.rows import MetadataState
from tests.metadata.odd_redis import bulk, odd_redis
from tests.metadata.redis_groups import SLOTS, one_node_cluster, three_node_cluster, wait_for
from tests.metadata.stores import opened
from tests.redis_server import RedisServer

KEYS = [f"key-{number}" for number in range(60)]
VALUES = {key: f"value of {key}".encode() for key in KEYS}
MISSING = Absent(MetadataState.MISSING, "no such key")


def read(store: RedisStore, *keys: str) -> dict[str, Found]:
    return store.read(keys or KEYS, limit_bytes=1_000_000, batch_bytes=8_000_000).found


def reads(store: RedisStore, *keys: str) -> bool:
    """Whether all values are read."""
    try:
        found = read(store, *keys)
    except StoreUnavailable:
        return False
    return found == {key: VALUES[key] for key in keys or KEYS}


def third_of(key: str) -> int:
    """Return which of three nodes has the key."""
    return key_slot(key.encode()) * 3 // SLOTS


@pytest.mark.fault(46)
def test_unavailable_node_affects_only_its_own_keys() -> None:
    with (
        three_node_cluster() as servers,
        opened(f"redis+cluster://127.0.0.1:{servers[0].port}", read_timeout_seconds=0.3) as store,
    ):
        store.write(VALUES)
        assert reads(store)
        servers[1].freeze()
        started = time.monotonic()
        for _ in range(10):
            found = read(store)
            for key in KEYS:
                value = found[key]
                if third_of(key) == 1:
                    assert isinstance(value, Absent)
                    assert value.state == MetadataState.PENDING
                    assert f"127.0.0.1:{servers[1].port}" in value.reason
                else:
                    assert value == VALUES[key]
        assert time.monotonic() - started < 10 * 0.3 * 5, "it is left alone for a while after each failure"
        own = [key for key in KEYS if third_of(key) == 1]
        with pytest.raises(StoreUnavailable):
            read(store, *own)
        servers[1].thaw()
        wait_for(lambda: reads(store))


@pytest.mark.fault(46)
def test_unavailable_configured_node_affects_only_its_own_keys() -> None:
    with three_node_cluster() as servers, opened(f"redis+cluster://127.0.0.1:{servers[0].port}") as store:
        store.write(VALUES)
        servers[0].kill()
        wait_for(lambda: reads(store, *(key for key in KEYS if third_of(key) != 0)))


@pytest.mark.fault(46)
def test_all_nodes_at_new_addresses_are_found_by_the_configured_one() -> None:
    """A Service's name stays while all its pods are replaced."""
    nodes: list[RedisServer] = []

    def slots(_: list[bytes], connection: socket.socket) -> None:
        node = b"*2\r\n" + bulk(b"127.0.0.1") + b":%d\r\n" % nodes[-1].port
        connection.sendall(b"*1\r\n*3\r\n:0\r\n:%d\r\n" % (SLOTS - 1) + node)

    with odd_redis(slots) as seed, opened(f"redis+cluster://127.0.0.1:{seed.port}") as store:
        with one_node_cluster() as first:
            nodes.append(first)
            store.write(VALUES)
            assert reads(store)
        with one_node_cluster() as second:
            nodes.append(second)
            assert second.port != nodes[0].port
            with opened(f"redis+cluster://127.0.0.1:{second.port}") as other:
                other.write(VALUES)
            wait_for(lambda: reads(store))


def test_slot_that_has_moved_is_read_from_its_new_node() -> None:
    with three_node_cluster() as servers, opened(f"redis+cluster://127.0.0.1:{servers[0].port}") as store:
        store.write(VALUES)
        key = next(key for key in KEYS if third_of(key) == 0)
        others = [other for other in KEYS if third_of(other) == 0 and other != key]
        slot = key_slot(key.encode())
        with servers[0].client() as source, servers[1].client() as target:
            names = [str(client.execute_command("CLUSTER", "MYID"), "ascii") for client in (source, target)]
            target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
            source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
            source.execute_command("MIGRATE", "127.0.0.1", servers[1].port, key, 0, 5_000)
            assert reads(store, key, *others), "on its way: the source answers ASK"
            for client in (target, source):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[1])
        assert reads(store, key, *others), "the source answers MOVED"
        assert reads(store)


def test_missing_keys_differ_from_keys_of_other_types() -> None:
    with three_node_cluster() as servers, opened(f"redis+cluster://127.0.0.1:{servers[2].port}") as store:
        key = next(key for key in KEYS if third_of(key) == 0)
        with servers[0].client() as client:
            client.execute_command("RPUSH", key, "a")
        found = read(store)
        assert found.pop(key) == Absent(MetadataState.WRONG_TYPE, "the key holds a list, not a string")
        assert set(found.values()) == {MISSING}


# --- the wrong kind of URL ---------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [KEYS, KEYS[:1]], ids=["many", "one"])
def test_plain_url_to_a_cluster_names_the_right_scheme(keys: list[str]) -> None:
    with three_node_cluster() as servers:
        away = next(server for number, server in enumerate(servers) if third_of(keys[0]) != number)
        with opened(f"redis://127.0.0.1:{away.port}") as store:
            with pytest.raises(StoreUnavailable, match=r"redis\+cluster://"):
                read(store, *keys)
            with pytest.raises(StoreUnavailable, match=r"redis\+cluster://"):
                store.write({keys[0]: b""})


def test_cluster_url_to_a_plain_server_names_the_right_scheme(redis_server: RedisServer) -> None:
    with (
        opened(f"redis+cluster://127.0.0.1:{redis_server.port}") as store,
        pytest.raises(StoreUnavailable, match="write redis://"),
    ):
        read(store)
