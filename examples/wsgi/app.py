"""A WSGI application that says which app serves a model: GET /MODEL."""

import json
import os

from shmroute import ModelNotFound, resolve


def application(environ, start_response):
    try:
        route = resolve(environ["PATH_INFO"].strip("/"))
        status, answer = "200 OK", {"app": route.app, "version": route.version, "worker": os.getpid()}
    except ModelNotFound as error:
        status, answer = "404 Not Found", {"error": str(error)}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
