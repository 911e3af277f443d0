"""Metadata stores that tests open for a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shmroute.metadata.redis_store import RedisStore


@contextmanager
def opened(url: str, **options: float) -> Iterator[RedisStore]:
    """Yield the store of a URL, and close it at the end of the block."""
    store = RedisStore(url, **options)
    try:
        yield store
    finally:
        store.close()
