"""The fleet's figures as JSON, table and plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.fleet.server import Request, Scenario
from benchmarks.fleet.simulation import RESTART, SPLIT, Simulation, Staleness

__all__ = ["Figures", "Run", "plot", "run", "table", "write"]

DOCS: Final = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- fleet:begin -->", "<!-- fleet:end -->"

SECONDS_OF_CORE: Final = {
    Request.CACHE: 0.34e-3,
    Request.QUORUM: 0.86e-3,
    Request.WATCH: 1.0e-3,
    Request.REFUSED: 0.1e-3,
}
"""Processor time of an API server for one request. A pair of probes took 1.2 ms of a kube-apiserver 1.36.2, here
split as the times of its answers are (0.9 and 2.3 ms); the others are estimates. `benchmarks.apiserver_cost` measures
all of them."""

SECONDS_OF_CORE_A_MEGABYTE: Final = 20e-3
"""Processor seconds of an API server per megabyte of a list, complete or of metadata: an estimate."""

SECONDS_OF_CORE_AN_EVENT: Final = 23e-6
"""Processor seconds of an API server per event and watcher, measured on a kube-apiserver 1.36.2."""

STEP_SECONDS: Final = 10
"""Seconds between two points of the plot."""


class Run(msgspec.Struct, frozen=True):
    """The figures of one simulation."""

    per: str
    """Unit that has one watcher: "pod" or "node"."""
    watchers: int
    resources: int
    open_watches: int
    requests_a_second: float
    """Requests per second while nothing happens."""
    requests_a_resource: float
    bytes_a_second: float
    """Bytes per second while nothing happens, without events."""
    event_bytes_a_second: float
    cores: float
    """Cores of the API server that are busy while nothing happens, without events."""
    event_cores: float
    peak_start: int
    """Maximum number of requests in one second while the fleet starts."""
    peak_restart: int
    peak_rollout: int
    peak_lists: int
    """Maximum number of lists at the same time."""
    late_restart: Staleness
    """Delay until changes made during the server's outage were seen, in seconds."""
    late_split: Staleness
    timeline: list[float]
    """Requests a second, one figure for each `STEP_SECONDS`."""


class Figures(msgspec.Struct, frozen=True):
    """The content of docs/scaling.json."""

    scenario: Scenario
    runs: list[Run]


def run(per: str, watchers: int, seed: int) -> Run:
    """Simulate that many watchers."""
    scenario = Scenario(watchers=watchers)
    outcome = Simulation(scenario, seed=seed).run()
    server = outcome.server
    quiet = (scenario.start_seconds + 60.0, scenario.restart_at)
    span = quiet[1] - quiet[0]
    rate = server.rate(*quiet)
    lists = (Request.LIST, Request.COMPARE, Request.AUDIT)
    cores = sum(server.rate(*quiet, [kind]) * seconds for kind, seconds in SECONDS_OF_CORE.items())
    sizes = {Request.LIST: scenario.list_bytes}
    for kind in lists:
        size = sizes.get(kind, scenario.metadata_bytes)
        cores += server.rate(*quiet, [kind]) * size / 1e6 * SECONDS_OF_CORE_A_MEGABYTE
    followers = watchers * scenario.resources
    events = followers * scenario.changes_a_second
    rollout_end = scenario.rollout_at + scenario.rollout_seconds
    steps = range(0, int(scenario.seconds), STEP_SECONDS)
    return Run(
        per,
        watchers,
        scenario.resources,
        server.most_open,
        round(rate, 2),
        round(rate / followers, 4),
        round(server.byte_rate(*quiet)),
        round(events * (scenario.object_bytes + 150)),
        round(cores, 4),
        round(events * SECONDS_OF_CORE_AN_EVENT, 4),
        server.peak(0, scenario.start_seconds),
        server.peak(scenario.restart_at, scenario.restart_at + span),
        server.peak(scenario.rollout_at, rollout_end),
        server.peak_lists,
        outcome.staleness(RESTART),
        outcome.staleness(SPLIT),
        [round(server.rate(step, step + STEP_SECONDS), 2) for step in steps],
    )


def table(runs: list[Run]) -> str:
    """Return the page's table."""
    lines = [
        "| watchers | requests/s | cores | cores, events | peak: restart | peak: rollout | lists at once | late |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in runs:
        late = each.late_restart
        lines.append(
            f"| {each.watchers:,}, one a {each.per} | {each.requests_a_second:,.1f} | {each.cores:.3f} "
            f"| {each.event_cores:.3f} | {each.peak_restart:,}/s | {each.peak_rollout:,}/s | {each.peak_lists:,} "
            f"| {late.median:.1f} / {late.p99:.1f} / {late.max:.1f} s |"
        )
    return "\n".join(lines)


def plot(runs: list[Run]) -> str:
    """Return a plot of requests per second over the scenario, for each number of watchers, on a logarithmic scale."""
    width, height, left, top = 700, 260, 60, 20
    colours = ("#2471a3", "#c0392b", "#1e8449", "#b9770e", "#7d3c98", "#566573")
    decades = 5
    scenario = Scenario(watchers=1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {top + height + 90}">',
        "<style>text{font:12px sans-serif;fill:#333}.a{stroke:#888;fill:none}",
        "@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>",
    ]
    for decade in range(decades + 1):
        y = top + height - height * decade / decades
        parts.append(f'<path class="a" stroke-opacity=".3" d="M{left} {y:.0f}H{left + width}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{10**decade:,}</text>')
    marks = (("restart", scenario.restart_at), ("split", scenario.split_at), ("rollout", scenario.rollout_at))
    for name, moment in marks:
        x = left + width * moment / scenario.seconds
        parts.append(f'<path class="a" stroke-dasharray="3" d="M{x:.0f} {top}V{top + height}"/>')
        parts.append(f'<text x="{x + 4:.0f}" y="{top + 12}">{name}</text>')
    for number, each in enumerate(runs):
        points = " ".join(
            f"{left + width * (step + 0.5) / len(each.timeline):.1f},"
            f"{top + height - height * _decades(rate) / decades:.1f}"
            for step, rate in enumerate(each.timeline)
        )
        colour = colours[number % len(colours)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        x = left + number % 3 * 230
        y = top + height + 44 + number // 3 * 20
        parts.append(f'<rect x="{x}" y="{y - 8}" width="18" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 24}" y="{y}">{each.watchers:,} watchers, one a {each.per}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 18}" text-anchor="middle">')
    parts.append(f"requests a second over {scenario.seconds / 60:.0f} minutes</text>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def write(runs: list[Run], docs: Path) -> None:
    """Write the figures, the plot and the page's table."""
    figures = Figures(Scenario(watchers=0), runs)
    (docs / "scaling.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
    (docs / "scaling.svg").write_text(plot(runs))
    page = docs / "scaling.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(runs)}\n{END}{rest.partition(END)[2]}")


def _decades(rate: float) -> float:
    """Return the decimal logarithm of a rate; 0 for one request a second and less."""
    return max(0.0, math.log10(rate)) if rate > 0 else 0.0
