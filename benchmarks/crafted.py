"""Names crafted to collide in a hash, compared with random ones: both must cost the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.generate import colliding_names

from benchmarks.measured import Measured
from benchmarks.peers.shmroute_ import ShmroutePeer
from benchmarks.table import models
from benchmarks.timing import figure, ratio
from shmroute import ModelNotFound
from shmroute.rows import Kind

LETTERS = "pqrstuvw"
"""Letters of the crafted names, and of the random ones, so that they differ only by chance."""

MEASURES = {
    "publish": "publish crafted names, in 4 generations",
    "look up": "first touch of crafted names",
    "look up absent": "look-up of crafted names that no model has",
}


def crafted_names(count: int, rounds: int) -> list[Measured]:
    """Measure `count` names of one CRC-32 and as many random ones: publishing, look-ups, absent names."""
    crafted = colliding_names(2 * count)
    dice = random.Random(6)
    chance = ["".join(dice.choices(LETTERS, k=16)) for _ in crafted]
    sides = {"crafted": crafted, "random": chance}
    row = next(iter(models(10).values()))
    taken: dict[tuple[str, str], list[float]] = {}
    order = list(sides)
    for _ in range(rounds):
        dice.shuffle(order)
        for side in order:
            for measure, seconds in _one_round(sides[side][:count], sides[side][count:], row).items():
                taken.setdefault((measure, side), []).append(seconds)
    return [
        Measured(
            what=what,
            at=f"{count:,} names of one CRC-32",
            unit="s",
            ours=figure(taken[measure, "crafted"]),
            peers={"random names": figure(taken[measure, "random"])},
            compared="x random names (CPU time)",
            value=ratio(taken[measure, "crafted"], taken[measure, "random"]),
            target=1.1,
        )
        for measure, what in MEASURES.items()
    ]


def _one_round(present: list[str], absent: list[str], row: bytes) -> dict[str, float]:
    ours = ShmroutePeer({"other": row})
    try:

        def publish() -> None:
            part = -(-len(present) // 4)
            for start in range(0, len(present), part):
                ours.publisher.publish({(Kind.MODEL, name): row for name in present[start : start + part]})

        def look_up() -> None:
            for name in present:
                ours.look_up(name)

        def look_up_absent() -> None:
            for name in absent:
                try:
                    ours.look_up(name)
                except ModelNotFound:
                    continue
                raise AssertionError(name)

        return {"publish": _seconds(publish), "look up": _seconds(look_up), "look up absent": _seconds(look_up_absent)}
    finally:
        ours.close()


def _seconds(work: Callable[[], None]) -> float:
    started = time.process_time()  # not the wall's: a ratio near 1 must not depend on what else the machine does
    work()
    return time.process_time() - started
