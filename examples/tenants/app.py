"""Tenants of a custom resource, found by the host name of the request. Django in one file.

shmroute run --tables examples/tenants/tables.yaml -- gunicorn --chdir examples/tenants --workers 4 app:application
"""

import os

import msgspec
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.http.request import split_domain_port
from django.urls import path

from shmroute import NotReady, table


class Tenant(msgspec.Struct, frozen=True):
    """The spec of a Tenant: examples/tenants/crd.yaml."""

    code: str
    region: str
    hosts: tuple[str, ...]
    quota: int = 0


tenants = table("tenants", Tenant)


class TenantOfHost:
    """Middleware: sets `request.tenant`, or answers 404 for a host that no tenant has."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        host, _ = split_domain_port(request.get_host())
        try:
            found = tenants.by("host", host)
        except NotReady as error:
            return JsonResponse({"error": str(error)}, status=503, headers={"Retry-After": "1"})
        if not found:
            return JsonResponse({"error": f"no tenant has the host {host}"}, status=404)
        request.tenant = found[0]  # of several that claim one host, that of the first key
        return self.get_response(request)


def quota(request):
    tenant = request.tenant
    return JsonResponse({"tenant": tenant.code, "quota": tenant.quota, "worker": os.getpid()})


urlpatterns = [path("quota", quota)]

settings.configure(
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[f"{__name__}.TenantOfHost"],
    ALLOWED_HOSTS=["*"],  # the tenants' hosts are the ones that are answered
    SECRET_KEY="an example needs none",
)
application = get_wsgi_application()
