"""A Kubernetes API server for tests, true to recordings of a real one (tests/wire).

    with ApiServer() as api:
        api.apply(app_model("iiot", ["iiot_dataservice"]))
        config = api.kubeconfig(tmp_path / "kubeconfig")
        api.faults.unavailable(times=3, retry_after=1, verb="watch")

It keeps no file, needs no network but the loopback, and knows nothing about shmroute.
"""

from .auth import Auth
from .faults import Faults
from .request import Request, RequestLog
from .rules import Fault
from .samples import (
    app_model,
    app_model_definition,
    app_models,
    endpoint,
    endpoint_slice,
)
from .server import ApiServer
from .status import ApiError
from .tls import Certificates, make_certificates
from .watches import Settings

__all__ = [
    "ApiError",
    "ApiServer",
    "Auth",
    "Certificates",
    "Fault",
    "Faults",
    "Request",
    "RequestLog",
    "Settings",
    "app_model",
    "app_model_definition",
    "app_models",
    "endpoint",
    "endpoint_slice",
    "make_certificates",
]
