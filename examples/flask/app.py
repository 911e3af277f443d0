import os

from flask import Flask

from shmroute import ModelNotFound, resolve

app = Flask(__name__)


@app.get("/<model>")
def where(model):
    route = resolve(model)
    return {"app": route.app, "version": route.version, "worker": os.getpid()}


@app.errorhandler(ModelNotFound)
def not_found(error):
    return {"error": str(error)}, 404
