"""The steps of a run, in order."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import calls, crafted, former, lookups, processes, publishing, tables
from benchmarks.measured import Measured


def steps(quick: bool) -> dict[str, Callable[[], list[Measured]]]:
    """Return the measurements, in order. `quick`: smaller tables and fewer rounds, in about a minute."""
    large = 100_000 if quick else 1_000_000
    middle = 20_000 if quick else 100_000
    team = 4 if quick else 8
    turns = 1 if quick else 2
    return {
        "warm look-ups": lambda: lookups.warm(middle, 7 if quick else 21),
        "warm look-ups, large table": lambda: lookups.warm(large, 5 if quick else 11, spread=False),
        "first touch": lambda: lookups.first_touch(middle, 9 if quick else 31),
        "first touch, large table": lambda: lookups.first_touch(large, 5 if quick else 21),
        "first touch, user's type": lambda: lookups.typed_first_touch(middle, 9 if quick else 31),
        "first touch, user's type, large table": lambda: lookups.typed_first_touch(large, 5 if quick else 21),
        "picks and metadata": lambda: lookups.parts_of_a_route(9 if quick else 41),
        "calls": lambda: [*calls.overhead(3 if quick else 7), *calls.many_at_a_time(5 if quick else 21)],
        "publishing": lambda: publishing.publishing(10_000, large, 100 if quick else 500),
        "shared memory, larger table": lambda: publishing.shared_memory(large * 11 // 10),
        "beside the former release": lambda: former.beside_former(
            10_000, large, min(50_000, large // 2), 5 if quick else 31, 1 if quick else 3
        ),
        "crafted names": lambda: crafted.crafted_names(12_000, 5 if quick else 21),
        "endpoint flip": lambda: publishing.endpoint_flip(100 if quick else 1000),
        "memory and attach": lambda: processes.memory_and_attach(large, team),
        "starting": lambda: former.steps_beside_former(turns, ("starting", middle, 3 if quick else 9)),
        "two processes, and publishing meanwhile": lambda: former.steps_beside_former(
            turns, ("scaling", middle, 1 if quick else 3)
        ),
        "tables, look-ups": lambda: tables.look_ups(middle, 7 if quick else 21),
        "tables, storm": lambda: tables.storm(10_000, 100 if quick else 400),
        "tables, index": lambda: tables.index_change(10, middle, 300),
        "tables, memory": lambda: tables.memory(middle, team),
        "tables, watcher": lambda: tables.watcher(10, 1_000 if quick else 10_000, 1_000),
        "propagation": lambda: former.steps_beside_former(turns, ("propagation", middle, team, 100 if quick else 250)),
    }


def measure(name: str, quick: bool) -> list[Measured]:
    """Measure one step. Call this in a process of its own: other steps would have fragmented the memory."""
    return steps(quick)[name]()
