"""`python -m benchmarks.scaling`: what N pods of W workers cost an API server, with a watch in each, and one a pod.

Clients are real list-and-watch threads (`KubernetesSource`) against the test API server, which counts what it sends. An
informer in each worker is N x W clients, shmroute is N; both are given the same, careful client, so that only their
number is compared. Writes docs/scaling.json, docs/scaling.svg and the table in docs/scaling.md; takes well under a
minute.
"""

from __future__ import annotations

import argparse
import logging
import socket
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from xml.sax.saxutils import escape

import msgspec
from tests.apiserver import ApiServer, Request, app_models

from shmroute.kube import Connection
from shmroute.resources import registry
from shmroute.sources.base import Changed, Event, Replaced
from shmroute.sources.kubernetes.source import KubernetesSource
from shmroute.sources.kubernetes.timing import Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.apiserver.reply import Reply

DOCS: Final = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- scaling:begin -->", "<!-- scaling:end -->"

WORKERS: Final = 8
PODS: Final = (1, 2, 4, 8)
APPMODELS: Final = 200
MODELS_EACH: Final = 10
CHANGES: Final = 20
WAIT_SECONDS: Final = 60.0
"""Until clients have caught up; on an idle machine they take milliseconds."""

TIMING: Final = Timing(backoff_first_seconds=0.1, backoff_cap_seconds=0.5, probe_seconds=0.0, audit_seconds=3600.0)
"""Back-off short, for the sake of the run; probes are not counted here but in the formula."""


class Point(msgspec.Struct, frozen=True):
    """What the server saw of so many clients of one resource. Bytes are all that it sent, heads included."""

    clients: int
    watches: int
    """Open at once."""
    start_lists: int
    start_bytes: int
    change_bytes: float
    """For one change of one AppModel, to all clients."""
    storm_lists: int
    """After a restart that forgot the history, as a restarted API server has."""
    storm_bytes: int


class _Counting:
    """A socket that tells how much goes out through it."""

    def __init__(self, sock: socket.socket, ledger: Ledger) -> None:
        self._sock = sock
        self._ledger = ledger

    def sendall(self, data: bytes) -> None:
        self._ledger.add("bytes", len(data))
        self._sock.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Ledger:
    """Counts what a server is asked and sends."""

    def __init__(self, api: ApiServer) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._handle = api.http.handler
        api.http.handler = self._counted

    def add(self, what: str, count: int = 1) -> None:
        with self._lock:
            self._counts[what] += count

    def taken(self) -> Counter[str]:
        """The counts since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            return counts

    def _counted(self, request: Request, reply: Reply) -> None:
        if request.verb == "list" or "sendInitialEvents" in request.query:
            self.add("lists")
        reply.sock = cast("socket.socket", _Counting(reply.sock, self))
        self._handle(request, reply)


class _Client:
    """One list and watch, and how much it has heard."""

    def __init__(self, kubeconfig: Path) -> None:
        self.lists = 0
        self.changes = 0
        self._stop = threading.Event()
        source = KubernetesSource(Connection(str(kubeconfig)), registry.APPMODELS, namespace="default", timing=TIMING)
        self._thread = threading.Thread(target=source.run, args=(self, self._stop), daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        if isinstance(event, Replaced):
            self.lists += 1
        elif isinstance(event, Changed):
            self.changes += 1

    def stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        self._thread.join(WAIT_SECONDS)


@contextmanager
def _clients(count: int, kubeconfig: Path) -> Iterator[list[_Client]]:
    clients: list[_Client] = []
    try:
        clients.extend(_Client(kubeconfig) for _ in range(count))
        yield clients
    finally:
        for client in clients:
            client.stop()
        for client in clients:
            client.join()


def _all_watch(api: ApiServer, count: int) -> bool:
    """Whether so many watches are open, and no streaming list any more."""
    with api.store.lock:
        return [watch.streaming_list for watch in api.watches.open] == [False] * count


def simulate(count: int, appmodels: int = APPMODELS, changes: int = CHANGES) -> Point:
    """So many clients start, hear of `changes`, and live through a restart of the server."""
    with tempfile.TemporaryDirectory() as folder, ApiServer() as api:
        api.preload(app_models(appmodels, models_each=MODELS_EACH))
        ledger = Ledger(api)
        kubeconfig = api.kubeconfig(Path(folder) / "kubeconfig")
        with _clients(count, kubeconfig) as clients:
            api.wait_until(lambda: _all_watch(api, count), WAIT_SECONDS)
            watches = api.open_watches()
            start = ledger.taken()
            for obj in app_models(changes, models_each=MODELS_EACH, version="v2"):
                api.apply(obj)
            api.wait_until(lambda: all(client.changes >= changes for client in clients), WAIT_SECONDS)
            change = ledger.taken()
            api.faults.refuse()
            api.apply(next(app_models(1, models_each=MODELS_EACH, version="v3")))
            api.faults.compact()
            api.faults.accept()
            api.wait_until(lambda: all(client.lists > 1 for client in clients) and _all_watch(api, count), WAIT_SECONDS)
            storm = ledger.taken()
    return Point(
        count, watches, start["lists"], start["bytes"], change["bytes"] / changes, storm["lists"], storm["bytes"]
    )


def _size(count: float) -> str:
    for limit, unit in ((2**20, "MiB"), (2**10, "KiB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} bytes"


def table(points: dict[int, Point]) -> str:
    """The table of the page: for each number of pods, without and with shmroute."""
    lines = [
        "| pods | | watches | bytes per change | lists after a restart | bytes of these |",
        "|---|---|---|---|---|---|",
    ]
    for pods in PODS:
        for clients, name in ((pods * WORKERS, "watch per worker"), (pods, "shmroute")):
            point = points[clients]
            lines.append(
                f"| {pods} | {name} | {point.watches} | {_size(point.change_bytes)} "
                f"| {point.storm_lists} | {_size(point.storm_bytes)} |"
            )
    return "\n".join(lines)


def plot(points: dict[int, Point]) -> str:
    """Three small plots over the number of pods, as SVG."""
    panels: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("open watches", "watches", "{:.0f}".format),
        ("bytes per change", "change_bytes", _size),
        ("bytes after a restart", "storm_bytes", _size),
    )
    width, height, left, top = 230, 150, 20, 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(panels) * (width + 40)} {height + 100}">',
        "<style>text {font: 12px sans-serif}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (title, field, form) in enumerate(panels):
        x0, base = left + number * (width + 40), top + height
        highest = max(getattr(points[pods * WORKERS], field) for pods in PODS)
        parts.append(f'<text x="{x0}" y="{top - 18}" font-weight="bold">{escape(title)}</text>')
        parts.append(f'<path d="M{x0} {top}V{base}H{x0 + width}" fill="none" stroke="#888"/>')
        for factor, colour, above in ((WORKERS, "#c0392b", True), (1, "#2471a3", False)):
            places = [
                (x0 + width * pods / PODS[-1] * 0.9, base - height * getattr(points[pods * factor], field) / highest)
                for pods in PODS
            ]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            x, y = places[-1]
            label = escape(form(getattr(points[PODS[-1] * factor], field)))
            shift = -4 if above else -8
            parts.append(f'<text x="{x:.1f}" y="{y + shift:.1f}" text-anchor="end" fill="{colour}">{label}</text>')
        for pods in PODS:
            x = x0 + width * pods / PODS[-1] * 0.9
            parts.append(f'<text x="{x:.1f}" y="{base + 16}" text-anchor="middle">{pods}</text>')
        parts.append(f'<text x="{x0 + width / 2}" y="{base + 32}" text-anchor="middle">pods</text>')
    legend = top + height + 52
    for x, colour, name in (
        (left, "#c0392b", f"a watch in each of {WORKERS} workers"),
        (left + 240, "#2471a3", "shmroute: one watcher per pod"),
    ):
        parts.append(f'<rect x="{x}" y="{legend - 9}" width="18" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 26}" y="{legend}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def write(points: dict[int, Point], docs: Path) -> None:
    """The figures, the plot and the page's table."""
    facts = {
        "workers": WORKERS,
        "appmodels": APPMODELS,
        "models_each": MODELS_EACH,
        "changes": CHANGES,
        "points": [points[clients] for clients in sorted(points)],
    }
    (docs / "scaling.json").write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n")
    (docs / "scaling.svg").write_text(plot(points))
    page = docs / "scaling.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(points)}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    """Simulate every number of clients, then write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--output", type=Path, default=DOCS, help="folder with the page scaling.md")
    options = parser.parse_args()
    logging.getLogger("shmroute").addHandler(logging.NullHandler())  # that the server went away is on purpose
    points = {}
    for clients in sorted({pods * factor for pods in PODS for factor in (1, WORKERS)}):
        began = time.perf_counter()
        points[clients] = simulate(clients)
        print(f"{clients} clients: {time.perf_counter() - began:.1f} s  {points[clients]}", flush=True)
    write(points, options.output)


if __name__ == "__main__":
    main()
