"""The test server and a connection to it, as in the tests of sources."""

from __future__ import annotations

from tests.shm.conftest import small_segments
from tests.sources.conftest import api, connection

__all__ = ["api", "connection", "small_segments"]
