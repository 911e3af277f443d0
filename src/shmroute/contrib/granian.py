"""A watcher beside a Granian server that is started from Python:

    from granian import Granian
    from shmroute.contrib.granian import beside

    beside(Granian("app:app", interface="asgi", workers=4)).serve()

The watcher's options are environment variables (`SHMROUTE_MANIFESTS`, `SHMROUTE_NAMESPACE` and so on, as listed by
`shmroute watch --help`). It is started after the bind and before the first worker, and ended after the last. For the
command `granian`, which has no hooks: `shmroute run -- granian ...`.
"""

from __future__ import annotations

from typing import Any, TypeVar

from shmroute.supervise.beside import start, stop

__all__ = ["beside"]

Server = TypeVar("Server", bound=Any)


def beside(server: Server) -> Server:
    """Have a watcher run as long as `server` does. Returns `server`."""
    server.on_startup(start)
    server.on_shutdown(stop)
    return server
