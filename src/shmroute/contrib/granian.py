"""Runs a watcher beside a Granian server that is started from Python.

    from granian import Granian
    from shmroute.contrib.granian import beside

    beside(Granian("app:app", interface="asgi", workers=4)).serve()

The watcher takes its options from environment variables (`SHMROUTE_MANIFESTS`, `SHMROUTE_NAMESPACE` and so on, as
`shmroute watch --help` lists them). Granian calls the hooks in its main process: the watcher starts after the bind and
before the first worker, and ends after the last worker. Granian's command has no hooks: use `shmroute run -- granian`.
"""

from __future__ import annotations

from typing import Any, TypeVar

from shmroute.supervise.hooks import start, stop

__all__ = ["beside"]

Server = TypeVar("Server", bound=Any)


def beside(server: Server) -> Server:
    """Run a watcher for as long as `server` runs.

    Args:
        server: a `granian.Granian`, or another object with the same `on_startup` and `on_shutdown`.

    Returns:
        `server` itself.
    """
    server.on_startup(start)
    server.on_shutdown(stop)
    return server
