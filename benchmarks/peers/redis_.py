"""Redis over a Unix socket: a round trip for each look-up."""

from __future__ import annotations

import redis
from tests.redis_server import RedisServer

from benchmarks.peers import Table, decode
from shmroute.worker.routes import Route

BATCH = 10_000


class RedisPeer:
    name = "Redis (unix socket)"
    shared = True

    def __init__(self, table: Table) -> None:
        self._server = RedisServer()
        self._server.__enter__()
        self._client = client = redis.Redis.from_url(self._server.unix_url)
        items = list(table.items())
        for start in range(0, len(items), BATCH):
            client.mset(dict(items[start : start + BATCH]))

        def look_up(model: str) -> Route:
            value = client.get(model)
            assert isinstance(value, bytes)
            return decode(value)

        self.look_up = look_up

    def close(self) -> None:
        self._client.close()
        self._server.__exit__(None, None, None)


def open_peer(table: Table) -> RedisPeer:
    return RedisPeer(table)
