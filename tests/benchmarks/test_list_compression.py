"""The benchmark measures savings and costs of compression on a list from the test API server."""

from __future__ import annotations

from benchmarks.list_compression import measure


def test_a_list_is_measured_with_and_without_compression() -> None:
    found = measure(20_000)
    assert 10_000 < found["bytes"] < 30_000
    assert found["bytes, compressed"] < found["bytes"]
    assert {"compress", "decompress", "decode"} <= found.keys()
