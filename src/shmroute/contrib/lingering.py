"""How long a worker that ends waits for requests that are on their way. Used by the server modules beside it."""

from __future__ import annotations

from typing import Final

__all__ = ["LINGER_SECONDS"]

LINGER_SECONDS: Final = 1.0
"""A request that is on its way when a worker is told to end arrives within this, from another continent too. A worker
takes so long to end if clients hold idle connections."""
