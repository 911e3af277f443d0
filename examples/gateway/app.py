"""A gateway: `POST /call/{model}` goes to a pod of the model's app, and past pods that fail.

shmroute run --manifests manifests -- uvicorn --app-dir examples/gateway app:app
"""

import os
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from shmroute.contrib import asgi
from shmroute.contrib.httpx import AsyncTransport, url_for
from shmroute.errors import CallFailed, CallModelNotFound, CallNoEndpoints, CallTimedOut

DEADLINE_SECONDS = float(os.environ.get("DEADLINE_SECONDS", "3"))


@asynccontextmanager
async def lifespan(app):
    await asgi.ready()
    mounts = {"model://": AsyncTransport(deadline=DEADLINE_SECONDS)}
    async with httpx.AsyncClient(mounts=mounts, timeout=None) as client:  # the deadline is the limit
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


@app.post("/call/{model:path}")
async def call(model: str, request: Request):
    answer = await request.state.client.post(
        url_for(model),
        content=await request.body(),
        headers={"Content-Type": request.headers.get("Content-Type", "application/json")},
        # Whoever gives a request a key promises that it may be processed twice.
        extensions={"repeat": "Idempotency-Key" in request.headers},
    )
    said = {
        "X-Pod": answer.extensions["endpoint"],
        "X-Attempts": str(answer.extensions["attempts"]),
        "Content-Type": answer.headers.get("Content-Type", "application/octet-stream"),
    }
    return Response(answer.content, answer.status_code, said)


STATUSES = {CallModelNotFound: 404, CallNoEndpoints: 503, CallTimedOut: 504}


@app.exception_handler(CallFailed)
async def failed(request: Request, error: CallFailed):
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 502)
    return JSONResponse({"error": str(error), "attempts": [str(each) for each in error.attempts]}, status)
