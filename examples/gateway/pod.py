"""A pod of the example: answers every request with its name, or misbehaves as set by `PUT /behave`."""

import asyncio
import os

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

behaviour = ["ok"]


async def answer(request):
    await request.body()
    if behaviour[0] == "hang":
        await asyncio.sleep(60)
    if behaviour[0] == "503":
        return JSONResponse({"error": "overloaded"}, 503)
    await asyncio.sleep(0.005)
    return JSONResponse({"pod": os.environ.get("POD_NAME", "")})


async def behave(request):
    behaviour[0] = (await request.body()).decode()
    return Response()


app = Starlette(
    routes=[Route("/behave", behave, methods=["PUT"]), Route("/{path:path}", answer, methods=["GET", "POST"])]
)
