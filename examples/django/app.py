"""Django in one file: `application` for WSGI servers, `asgi_application` for ASGI ones."""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

from shmroute import ModelNotFound, resolve
from shmroute.contrib.asgi import Ready

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="an example needs none")


def where(request, model):
    try:
        route = resolve(model)
    except ModelNotFound as error:
        return JsonResponse({"error": str(error)}, status=404)
    return JsonResponse({"app": route.app, "version": route.version, "worker": os.getpid()})


urlpatterns = [path("<str:model>", where)]

application = get_wsgi_application()
asgi_application = Ready(get_asgi_application())
