"""The FastAPI example answers each error of a look-up with the status that docs/not-found.md gives it."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import httpx
from starlette.types import ASGIApp

from shmroute.testing import Answer, not_ready, routes

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi" / "app.py"


async def _statuses(app: ASGIApp, *paths: str) -> list[int]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://example") as client:
        return [(await client.get(path)).status_code for path in paths]


def test_fastapi_example_answers_404_and_503_for_errors_of_look_ups() -> None:
    spec = importlib.util.spec_from_file_location("fastapi_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    answers = {"here": Answer(app="iiot", endpoints=("10.0.0.1:80",)), "empty": Answer(app="iiot", endpoints=())}
    with routes(answers):
        assert asyncio.run(_statuses(example.app, "/here", "/nowhere", "/empty")) == [200, 404, 503]
        with not_ready():
            assert asyncio.run(_statuses(example.app, "/here")) == [503]
