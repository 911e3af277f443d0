from fastapi import FastAPI
from fastapi.responses import JSONResponse

from shmroute import ModelNotFound, NoEndpoints, NotReady, resolve
from shmroute.contrib.asgi import lifespan

app = FastAPI(lifespan=lifespan)


@app.get("/{model}")
async def where(model: str):
    route = resolve(model)
    return {"app": route.app, "version": route.version, "pod": str(route.pick())}


@app.exception_handler(ModelNotFound)
async def not_found(request, error):
    return JSONResponse({"error": str(error)}, 404)


@app.exception_handler(NoEndpoints)
@app.exception_handler(NotReady)
async def unavailable(request, error):
    return JSONResponse({"error": str(error)}, 503)
