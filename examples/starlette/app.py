import os

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from shmroute import ModelNotFound, resolve
from shmroute.contrib.asgi import lifespan


async def where(request):
    route = resolve(request.path_params["model"])
    return JSONResponse({"app": route.app, "version": route.version, "worker": os.getpid()})


async def not_found(request, error):
    return JSONResponse({"error": str(error)}, 404)


app = Starlette(routes=[Route("/{model}", where)], exception_handlers={ModelNotFound: not_found}, lifespan=lifespan)
