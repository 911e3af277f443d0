"""1,000 changes a second on one table: the watcher keeps up, and publishes another table's changes in time."""

from __future__ import annotations

import threading
import time

import pytest

from shmroute import Reader
from tests.watcher.running import wait_for
from tests.watcher.storm import Storm

CHANGES = 200
MOST_WAITING = 10_000
"""Ten seconds of a storm: far more than wait at any time, and far less than all that a watcher which cannot keep up
would have by the end."""


@pytest.mark.long
def test_a_storm_on_one_table_leaves_the_others_served(area: str) -> None:
    late: list[float] = []
    with Storm(area, 10_000) as storm, Reader(area) as reader:
        busy, calm = reader.table("busy"), reader.table("calm")

        def look() -> None:
            seen = 0
            while seen < CHANGES:
                if (row := calm["o0"])["v"] != seen:
                    assert row["v"] > seen
                    seen = row["v"]
                    late.append((time.monotonic_ns() - row["ns"]) / 1e6)
                time.sleep(0.0005)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        storm.blow(CHANGES)
        looking.join(60)
        assert not looking.is_alive(), "the last change of the calm table was seen"
        last = storm.changes
        wait_for(lambda: busy[f"o{last % 10_000}"]["v"] == last)
        values = [row["v"] for row in busy.values()]
    assert sorted(value for value in values if value) == list(range(max(1, last - 9_999), last + 1))
    assert storm.backlog < MOST_WAITING
    late.sort()
    median, p99 = late[len(late) // 2], late[int(len(late) * 0.99)]
    print(f"seen after {median:.2f} ms (median), {p99:.2f} ms (p99); at most {storm.backlog} events waited")
