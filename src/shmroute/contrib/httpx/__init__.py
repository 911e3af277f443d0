"""Transports for httpx that call a model by its name.

    client = httpx.Client(mounts={"model://": shmroute.contrib.httpx.Transport()})
    client.post("model://iiot_dataservice/query", json=...)

    client = httpx.AsyncClient(mounts={"model://": shmroute.contrib.httpx.AsyncTransport()})

The host of the URL is the model's name. httpx lower-cases hosts and gives `:` a meaning: use `url_for`, which makes a
URL of any name, or `extensions={"model": name}`. Failures are handled by the policy of `shmroute.calls`.

A request may carry these extensions:

    model      str           the model's exact name, in place of the URL's host
    key        str or bytes  the same pod for the same key
    deadline   float         seconds for the whole call, its answer's body included
    attempts   int           maximum number of attempts
    repeat     bool          whether the request may be sent again once a pod may have processed it;
                             by default, whether its method is idempotent (RFC 9110)

A response has the extensions `endpoint` (the address that answered) and `attempts` (the number of attempts made).

`transport` and `async_transport` build on `base`, which does no I/O.
"""

from __future__ import annotations

try:
    import anyio  # noqa: F401
    import httpcore  # noqa: F401
    import httpx
except ImportError as error:
    raise ImportError("shmroute.contrib.httpx needs httpx: pip install 'shmroute[httpx]'") from error

from shmroute.calls.urls import check_path, host_of
from shmroute.contrib.httpx.async_transport import AsyncTransport
from shmroute.contrib.httpx.transport import Transport

__all__ = ["AsyncTransport", "Transport", "url_for"]


def url_for(model: str, path: str = "/") -> httpx.URL:
    """Return the URL of a model. Its name may have any characters.

    Args:
        model: the model's name.
        path: path and query.

    Raises:
        ValueError: the name is empty, or the path does not begin with a slash.
    """
    return httpx.URL(f"model://{host_of(model)}{check_path(path)}")
