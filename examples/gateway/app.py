"""A gateway: `POST /call/{model}` is forwarded to a pod of the model's app; pods that fail are avoided.

shmroute run --manifests manifests -- uvicorn --app-dir examples/gateway app:app
"""

import os
from contextlib import asynccontextmanager
from contextvars import ContextVar

import aiohttp
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from shmroute.calls import AttemptStarted, default_policy
from shmroute.contrib import asgi
from shmroute.contrib.aiohttp import Failover, url_for
from shmroute.errors import CallFailed, CallModelNotFound, CallNoEndpoints, CallTimedOut

failover = Failover(deadline=float(os.environ.get("DEADLINE_SECONDS", "3")))
repeating = failover.options(repeat=True)

tried = ContextVar("tried")
"""The pods that the call of this task has tried."""


def note(event):
    if isinstance(event, AttemptStarted):
        tried.get().append(event.endpoint)


@asynccontextmanager
async def lifespan(app):
    await asgi.ready()
    default_policy().listeners.append(note)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=1)  # else the deadline is the limit
    connector = aiohttp.TCPConnector(limit=0)  # by default, the 101st call at a time waits for one of the others
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield {"session": session}


app = FastAPI(lifespan=lifespan)


@app.post("/call/{model:path}")
async def call(model: str, request: Request):
    tried.set([])
    async with request.state.session.post(
        url_for(model),
        data=await request.body(),
        headers={"Content-Type": request.headers.get("Content-Type", "application/json")},
        allow_redirects=False,
        # Whoever gives a request a key promises that it may be processed twice.
        middlewares=[repeating if "Idempotency-Key" in request.headers else failover],
    ) as answer:
        said = {
            "X-Pod": tried.get()[-1],
            "X-Attempts": str(len(tried.get())),
            "Content-Type": answer.headers.get("Content-Type", "application/octet-stream"),
        }
        return Response(await answer.read(), answer.status, said)


STATUSES = {CallModelNotFound: 404, CallNoEndpoints: 503, CallTimedOut: 504}


@app.exception_handler(CallFailed)
async def failed(request: Request, error: CallFailed):
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 502)
    return JSONResponse({"error": str(error), "attempts": [str(each) for each in error.attempts]}, status)


@app.exception_handler(aiohttp.ClientError)
async def broke_off(request: Request, error: aiohttp.ClientError):
    return JSONResponse({"error": f"the answer broke off: {error}", "attempts": []}, 502)
