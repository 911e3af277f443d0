"""Timing that holds on a noisy machine: competitors in turn, many rounds, medians, and ratios taken round by round."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence

import msgspec

Loop = Callable[[Sequence[str]], None]

_LOOP = "def loop(keys):\n    for key in keys:\n        look_up(key)\n"


class Figure(msgspec.Struct, frozen=True):
    """A median with its spread, in the unit of its measurement."""

    median: float
    low: float
    """10th percentile."""
    high: float
    """90th percentile."""
    samples: int


def figure(values: Sequence[float]) -> Figure:
    """Return the median and spread of some values."""
    ordered = sorted(values)
    return Figure(statistics.median(ordered), quantile(ordered, 0.1), quantile(ordered, 0.9), len(ordered))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of pairs measured side by side: the machine's speed drops out."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def loop_over(look_up: Callable[[str], object]) -> Loop:
    """Return a loop with code of its own, so that the interpreter specialises each competitor's call site for
    itself."""
    scope: dict[str, object] = {"look_up": look_up}
    exec(_LOOP, scope)
    loop: Loop = scope["loop"]  # type: ignore[assignment]
    return loop


def interleaved(
    loops: dict[str, Loop],
    keys: Callable[[], Sequence[str]],
    rounds: int,
    before: Callable[[str], None] = lambda _: None,
    limits: dict[str, int] | None = None,
) -> dict[str, list[float]]:
    """Return the seconds per look-up for each competitor, round by round, over the same keys.

    `before` is called ahead of each measurement and not timed. `limits` says how many keys a slow competitor gets.

    Each round has another order, since whoever follows another finds in the processor's cache what both use. All of
    them find the keys' own text there: a request has just brought it, and else whoever comes first would fetch it for
    all.
    """
    taken: dict[str, list[float]] = {name: [] for name in loops}
    order = list(loops)
    dice = random.Random(4)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            chosen = keys()
            dice.shuffle(order)
            for name in order:
                loop = loops[name]
                some = chosen[: (limits or {}).get(name, len(chosen))]
                before(name)
                "".join(some)
                started = time.perf_counter()
                loop(some)
                taken[name].append((time.perf_counter() - started) / len(some))
            gc.collect()
    finally:
        gc.enable()
    return taken


def affordable(look_up: Callable[[str], object], keys: Sequence[str], seconds: float) -> int:
    """Return how many keys a competitor can look up in about `seconds`, at least one."""
    started = time.perf_counter()
    count = 0
    for key in keys:
        look_up(key)
        count += 1
        if time.perf_counter() - started > seconds:
            break
    return count


def at_quantile(values: list[float], share: float) -> Figure:
    """Return a quantile of the values as a figure without a spread."""
    value = quantile(values, share)
    return Figure(value, value, value, len(values))
