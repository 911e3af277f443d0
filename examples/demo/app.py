"""The demo's WSGI application: `/call` is what a team's own server would do, the other paths show what happens inside.

Run by gunicorn: `gunicorn examples.demo.app:application`.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from shmroute import NoEndpoints, Reader, ShmrouteError, get, resolve

LOOK_SECONDS: Final = 0.0005
"""Seconds between two look-ups of the thread that records when this worker sees the model move."""

BENCH_SECONDS: Final = 0.1
BACKEND_SECONDS: Final = 5.0

_seen: Final[dict[str, int]] = {}
_looking: Final = threading.Lock()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer one request with JSON."""
    query = {name: values[0] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
    handler = _PATHS.get(environ["PATH_INFO"])
    if handler is None:
        status, answer = "404 Not Found", {"error": "no such path"}
    else:
        try:
            status, answer = "200 OK", handler(query)
        except (ShmrouteError, OSError, http.client.HTTPException) as error:
            status, answer = "502 Bad Gateway", {"error": f"{type(error).__name__}: {error}"}
    body = json.dumps({"pid": os.getpid(), **answer}).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _call(query: dict[str, str]) -> dict[str, Any]:
    """Resolve a model, call a pod of its app, and return the pod's answer."""
    route = resolve(query["model"])
    with route.lease() as endpoint:
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=BACKEND_SECONDS)
        try:
            connection.request("GET", f"/{route.model}")
            pod = connection.getresponse().read().decode()
        finally:
            connection.close()
    return {"app": route.app, "version": route.version, "pod": pod}


def _look(query: dict[str, str]) -> dict[str, Any]:
    """Return when this worker saw the model in each app. The first call starts a thread that keeps resolving it."""
    with _looking:
        if not _seen:
            model = query["model"]
            _seen[resolve(model).app] = time.monotonic_ns()
            threading.Thread(target=_look_out, args=(model,), daemon=True).start()
    return {"seen": _seen}


def _look_out(model: str) -> None:
    while True:
        route = get(model)
        if route is not None and route.app not in _seen:
            _seen[route.app] = time.monotonic_ns()
        time.sleep(LOOK_SECONDS)


def _bench(query: dict[str, str]) -> dict[str, Any]:
    """Look-ups per second in this worker, over the models that it uses."""
    models = [f"model_{number}" for number in range(int(query["hot"]))]
    for model in models:
        resolve(model)
    count = 0
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < BENCH_SECONDS:
        for model in models:
            resolve(model)
        count += len(models)
    return {"lookups_per_second": count / spent}


def _memory(query: dict[str, str]) -> dict[str, Any]:
    """Return the private memory of this worker for the models it uses, and for a dict of all models, in bytes."""
    reader = Reader()
    before = _private_bytes()
    for number in range(int(query["hot"])):
        reader.resolve(f"model_{number}")
    shared = _private_bytes() - before
    before = _private_bytes()
    table = reader.models()
    private = _private_bytes() - before
    reader.close()
    return {"shmroute_bytes": shared, "dict_bytes": private, "models": len(table)}


def _private_bytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines() if line.startswith("Private_"))
    return sum(int(value.split()[0]) for value in lines.values()) * 1024


def _pick(query: dict[str, str]) -> dict[str, Any]:
    try:
        return {"endpoint": str(resolve(query["model"]).pick())}
    except NoEndpoints as error:
        return {"endpoint": None, "reason": error.reason}


_PATHS: Final[dict[str, Callable[[dict[str, str]], dict[str, Any]]]] = {
    "/call": _call,
    "/look": _look,
    "/bench": _bench,
    "/memory": _memory,
    "/pick": _pick,
}
