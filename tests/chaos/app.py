"""The WSGI application under load: each request resolves many models and reports every undocumented result."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shmroute import MetadataNotJson, ModelNotFound, NoEndpoints, NotReady, resolve
from tests.chaos.world import MODELS

LOOKUPS = 200


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Resolve, pick and read metadata; answer with the defects found and this worker's size."""
    defects: list[str] = []
    found = 0
    for model in random.choices(MODELS, k=LOOKUPS):
        try:
            found += _look(model, defects)
        except (ModelNotFound, NotReady):
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            defects.append(f"{model}: {error!r}")
    body = json.dumps({"pid": os.getpid(), "found": found, "defects": defects, **_size()}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _look(model: str, defects: list[str]) -> int:
    route = resolve(model)
    if route.model != model:
        defects.append(f"{model} answered by a route of {route.model}")
    with contextlib.suppress(NoEndpoints):
        route.pick()
    try:
        value = route.metadata
    except MetadataNotJson:
        return 1
    if isinstance(value, dict) and value.get("version") != route.version:
        defects.append(f"{model}: value of {value.get('version')} under version {route.version}")
    return 1


def _size() -> dict[str, int]:
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return {"rss_bytes": rss, "descriptors": len(list(Path("/proc/self/fd").iterdir()))}
