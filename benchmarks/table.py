"""The table of all measurements: rows of `tests.generate`, made once for each size."""

from __future__ import annotations

from functools import lru_cache

from tests.generate import rows

from benchmarks.peers import Table
from shmroute.rows import Kind

MODELS_PER_APP = 10


@lru_cache(maxsize=1)
def models(count: int) -> Table:
    """`count` models: name -> encoded route."""
    return {key: value for (kind, key), value in rows(count // MODELS_PER_APP, MODELS_PER_APP) if kind == Kind.MODEL}


def complete(count: int) -> dict[tuple[int, str], bytes]:
    """Return all rows of `count` models, their apps and endpoints."""
    return dict(rows(count // MODELS_PER_APP, MODELS_PER_APP, endpoints=2))
