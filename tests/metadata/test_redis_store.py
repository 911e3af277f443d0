from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shmroute.metadata.redis_store import RedisStore
from shmroute.metadata.store import Absent, Found, StoreUnavailable
from shmroute.rows import MetadataState
from tests.apiserver.tls import make_certificates
from tests.metadata.redis_groups import behind_tls, one_node_cluster, sentinelled, wait_for
from tests.metadata.stores import opened
from tests.redis_server import RedisServer

LIMIT_BYTES = 1024 * 1024
MISSING = Absent(MetadataState.MISSING, "no such key")


BATCH_BYTES = 8 * 1024 * 1024


def read(store: RedisStore, *keys: str, check_size_first: tuple[str, ...] = ()) -> list[Found]:
    """Return what each key holds; the store is asked again while it leaves some to the next read, as the loader
    does."""
    found: dict[str, Found] = {}
    while left := [key for key in keys if key not in found]:
        reading = store.read(left, limit_bytes=LIMIT_BYTES, batch_bytes=BATCH_BYTES, check_size_first=check_size_first)
        assert reading.found
        found.update(reading.found)
    return [found[key] for key in keys]


def counted(server: RedisServer, *commands: str) -> dict[str, int]:
    stats = server.commandstats()
    return {command: stats.get(command, 0) for command in commands}


def fill(server: RedisServer, values: dict[str, bytes]) -> None:
    with server.client() as client:
        client.mset(values)


# --- what is read, and at what cost ------------------------------------------------------------------------


def test_a_batch_of_values_is_one_command(redis_server: RedisServer) -> None:
    values = {f"key-{number}": f"value {number}".encode() for number in range(1_000)}
    fill(redis_server, values)
    with opened(redis_server.url) as store:
        reading = store.read(list(values), limit_bytes=LIMIT_BYTES, batch_bytes=BATCH_BYTES)
    assert reading == (values, 1)
    assert counted(redis_server, "mget", "get", "exists", "type", "strlen") == {
        "mget": 1,
        "get": 0,
        "exists": 0,
        "type": 0,
        "strlen": 0,
    }


def test_values_of_any_bytes_are_returned_unchanged(redis_server: RedisServer) -> None:
    values = {"empty": b"", "binary": bytes(range(256)), "\u00fc \u2603 key": b"\xff"}
    fill(redis_server, values)
    with opened(redis_server.unix_url) as store:
        assert read(store, *values) == list(values.values())


def test_a_batch_may_contain_a_key_twice(redis_server: RedisServer) -> None:
    fill(redis_server, {"a": b"1"})
    with opened(redis_server.url) as store:
        assert read(store, "a", "b", "a", "b") == [b"1", MISSING, b"1", MISSING]


def test_any_number_of_missing_keys_costs_one_more_command(redis_server: RedisServer) -> None:
    with opened(redis_server.url) as store:
        reading = store.read(
            [f"key-{number}" for number in range(500)], limit_bytes=LIMIT_BYTES, batch_bytes=BATCH_BYTES
        )
    assert reading == ({f"key-{number}": MISSING for number in range(500)}, 2)
    assert counted(redis_server, "mget", "exists", "type") == {"mget": 1, "exists": 1, "type": 0}


def test_a_key_of_the_wrong_type_differs_from_a_missing_one(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.rpush("list", "a")
        client.hset("hash", "a", "b")
        client.set("string", "value")
    with opened(redis_server.url) as store:
        assert read(store, "list", "none", "string", "hash") == [
            Absent(MetadataState.WRONG_TYPE, "the key holds a list, not a string"),
            MISSING,
            b"value",
            Absent(MetadataState.WRONG_TYPE, "the key holds a hash, not a string"),
        ]


def test_a_value_over_the_limit_is_not_returned(redis_server: RedisServer) -> None:
    fill(redis_server, {"fits": b"x" * LIMIT_BYTES, "large": b"x" * (LIMIT_BYTES + 1)})
    with opened(redis_server.url) as store:
        fits, large = read(store, "fits", "large")
    assert fits == b"x" * LIMIT_BYTES
    assert large == Absent(MetadataState.TOO_LARGE, "the value has 1048577 bytes, the limit is 1048576")


def test_value_known_to_be_too_large_is_measured_not_read(redis_server: RedisServer) -> None:
    fill(redis_server, {"large": b"x" * 5_000_000, "shrunk": b"small"})
    with redis_server.client() as client:
        client.rpush("list", "a")
    with opened(redis_server.url) as store:
        assert read(store, "large", check_size_first=("large",)) == [
            Absent(MetadataState.TOO_LARGE, "the value has 5000000 bytes, the limit is 1048576")
        ]
        assert counted(redis_server, "mget", "strlen") == {"mget": 0, "strlen": 1}
        keys = ("shrunk", "list", "gone")
        assert read(store, *keys, check_size_first=keys) == [
            b"small",
            Absent(MetadataState.WRONG_TYPE, "the key holds a list, not a string"),
            MISSING,
        ]


def test_databases_and_passwords_are_used() -> None:
    with RedisServer(password="s3cret") as server:
        with opened(f"redis://:s3cret@127.0.0.1:{server.port}/3") as store:
            store.write({"a": b"in 3"})
            assert read(store, "a") == [b"in 3"]
        with opened(server.url) as store:
            assert read(store, "a") == [MISSING]


def test_values_are_written_and_can_be_read_at_once(redis_server: RedisServer) -> None:
    values = {f"key-{number}": b"x" * 100 for number in range(1_200)}
    with opened(redis_server.url) as store:
        store.write(values)
        assert read(store, *values) == list(values.values())


# --- when it does not answer -------------------------------------------------------------------------------


def refused(server: RedisServer) -> None:
    server.kill()


def frozen(server: RedisServer) -> None:
    server.freeze()


@pytest.mark.parametrize("fault", [refused, frozen])
def test_silent_redis_counts_as_unavailable_within_its_timeouts(
    redis_server: RedisServer, fault: Callable[[RedisServer], None]
) -> None:
    with opened(redis_server.url, read_timeout_seconds=0.2, connect_timeout_seconds=0.2) as store:
        assert read(store, "a") == [MISSING]
        fault(redis_server)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                read(store, "a")
            with pytest.raises(StoreUnavailable):
                store.write({"a": b"1"})


def test_redis_store_is_available_as_soon_as_the_server_is(redis_server: RedisServer) -> None:
    with opened(redis_server.url) as store:
        redis_server.kill()
        with pytest.raises(StoreUnavailable, match="onnect"):
            read(store, "a")
        redis_server.start()
        assert read(store, "a") == [MISSING]


def test_a_late_reply_is_never_used_for_a_later_command(redis_server: RedisServer) -> None:
    fill(redis_server, {"a": b"of a", "b": b"of b"})
    with opened(redis_server.url, read_timeout_seconds=0.2) as store:
        redis_server.freeze()
        with pytest.raises(StoreUnavailable):
            read(store, "a")
        redis_server.thaw()
        assert read(store, "b") == [b"of b"]


@pytest.mark.parametrize("login", ["", ":wr0ng@", "nobody:wr0ng@"])
def test_a_wrong_password_is_a_reason_without_the_password(login: str) -> None:
    with RedisServer(password="s3cret") as server, opened(f"redis://{login}127.0.0.1:{server.port}") as store:
        with pytest.raises(StoreUnavailable) as caught:
            read(store, "a")
        assert "s3cret" not in str(caught.value)
        assert "wr0ng" not in str(caught.value)
        assert "uthenticat" in str(caught.value) or "password" in str(caught.value)


def test_redis_without_free_connections_counts_as_unavailable() -> None:
    with RedisServer() as server, opened(server.url) as store, server.client() as client:
        client.execute_command("CONFIG", "SET", "maxclients", "1")
        with pytest.raises(StoreUnavailable):
            read(store, "a")


def test_closing_the_store_ends_a_running_read(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, read_timeout_seconds=60.0)
    assert read(store, "a") == [MISSING]
    redis_server.freeze()
    failures: list[BaseException] = []

    def reading() -> None:
        try:
            read(store, "a")
        except BaseException as error:  # noqa: BLE001 - any will do
            failures.append(error)

    thread = threading.Thread(target=reading)
    thread.start()

    def closed() -> bool:
        store.close()  # again and again: the first time, the question may not have been sent yet
        return not thread.is_alive()

    wait_for(closed)
    assert failures


# --- who may read what -------------------------------------------------------------------------------------


def acl(server: RedisServer, *rules: str) -> str:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", *rules)
    return f"redis://reader:secret@127.0.0.1:{server.port}"


@pytest.mark.parametrize("rules", ["+mget", "+@read -exists", "+@read -type", "+@read -exists -type -strlen -mget"])
def test_commands_denied_by_an_acl_hide_no_other_value(redis_server: RedisServer, rules: str) -> None:
    """The keys include a missing one, and one whose size is read first."""
    fill(redis_server, {"a": b"1", "c": b"2"})
    with opened(acl(redis_server, "~*", *rules.split())) as store:
        assert read(store, "a", "b") == [b"1", MISSING]
        assert read(store, "c", check_size_first=("c",)) == [b"2"]


def test_a_forbidden_key_does_not_hide_the_others(redis_server: RedisServer) -> None:
    fill(redis_server, {"mine_a": b"1", "theirs_b": b"2"})
    with redis_server.client() as client:
        client.rpush("mine_list", "a")
    with opened(acl(redis_server, "~mine_*", "+@read")) as store:
        mine, theirs, kind, missing = read(store, "mine_a", "theirs_b", "mine_list", "mine_none")
    assert mine == b"1"
    assert isinstance(theirs, Absent)
    assert theirs.state == MetadataState.PENDING
    assert "permission" in theirs.reason
    assert kind == Absent(MetadataState.WRONG_TYPE, "the key holds a list, not a string")
    assert missing == MISSING


def test_redis_user_without_read_rights_is_reported(redis_server: RedisServer) -> None:
    with opened(acl(redis_server, "~*", "-@all")) as store, pytest.raises(StoreUnavailable, match="permission"):
        read(store, "a", "b")


# --- other forms of Redis ----------------------------------------------------------------------------------


def test_tls_is_used_and_an_unknown_authority_refused(redis_server: RedisServer, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    fill(redis_server, {"a": b"x" * 100_000})
    with behind_tls(redis_server.port, certificates.context()) as port:
        with opened(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificates.ca}") as store:
            assert read(store, "a") == [b"x" * 100_000]
        with opened(f"rediss://127.0.0.1:{port}") as store, pytest.raises(StoreUnavailable, match="certificate"):
            read(store, "a")
        with opened(f"rediss://127.0.0.1:{port}?ssl_ca_certs=/nowhere") as store, pytest.raises(StoreUnavailable):
            read(store, "a")


def test_a_cluster_is_read_slot_by_slot() -> None:
    with one_node_cluster() as server, opened(f"redis+cluster://127.0.0.1:{server.port}") as store:
        store.write({f"key-{number}": f"{number}".encode() for number in range(50)})
        store.write({"large": b"x" * 2_000_000})
        server.reset_stats()
        keys = [f"key-{number}" for number in range(50)]
        reading = store.read(keys, limit_bytes=LIMIT_BYTES, batch_bytes=BATCH_BYTES)
        assert reading.found == {f"key-{number}": f"{number}".encode() for number in range(50)}
        assert reading.commands == counted(server, "mget")["mget"]
        with server.client() as client:
            client.execute_command("RPUSH", "list", "a")
        missing, large, kind = read(store, "none", "large", "list", check_size_first=("large",))
        assert missing == MISSING
        assert isinstance(large, Absent)
        assert large.state == MetadataState.TOO_LARGE
        assert kind == Absent(MetadataState.WRONG_TYPE, "the key holds a list, not a string")
        server.kill()
        with pytest.raises(StoreUnavailable):
            read(store, "none")
        server.start()


def test_cluster_unreachable_at_start_counts_as_unavailable(redis_server: RedisServer) -> None:
    redis_server.kill()
    with opened(f"redis+cluster://127.0.0.1:{redis_server.port}") as store:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                read(store, "a")


def test_a_master_that_dies_is_followed_by_the_one_sentinel_promotes(tmp_path: Path) -> None:
    with sentinelled(tmp_path) as group, opened(group.url, connect_timeout_seconds=0.5) as store:
        store.write({"a": b"value"})
        group.wait_for_replica()
        assert read(store, "a") == [b"value"]
        group.master.kill()
        with pytest.raises(StoreUnavailable):
            read(store, "a")
        group.wait_for_promotion()

        def answers() -> bool:
            try:
                return read(store, "a") == [b"value"]
            except StoreUnavailable:
                return False

        wait_for(answers)
        assert group.replica.commandstats()["mget"] == 1
