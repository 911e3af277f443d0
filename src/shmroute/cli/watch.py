"""`shmroute watch`: the watcher process."""

from __future__ import annotations

import signal
from typing import Any

import click

from shmroute.cli.logs import log_options
from shmroute.cli.watching import watch_options


@click.command()
@watch_options
@log_options
@click.option(
    "--listen",
    envvar="SHMROUTE_LISTEN",
    help="HOST:PORT or :PORT for /healthz, /readyz and /metrics.",
)
@click.option("--lifeline", type=int, hidden=True, help="End when nobody holds the other side of this pipe.")
def command(lifeline: int | None, listen: str | None, **chosen: Any) -> None:
    """Follow AppModels and publish routes for the workers of this pod.

    From a cluster (the pod's service account, or a kubeconfig), or from a folder of manifests (--manifests). A second
    watcher of the same area stands by and takes over when the first is gone. SIGTERM and Ctrl-C end it within a second;
    the routes stay in shared memory for whoever comes next.
    """
    from shmroute.supervise.lifeline import call_at_end
    from shmroute.watcher.assemble import build
    from shmroute.watcher.options import WatchOptions

    watcher = build(WatchOptions(**chosen))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop())
    signal.signal(signal.SIGUSR1, lambda *_: watcher.audit())
    if listen:
        from shmroute.watcher.health import serve

        serve(watcher, listen)
    if lifeline is not None:
        call_at_end(lifeline, watcher.stop)
    watcher.run()
    if watcher.failed:
        raise SystemExit(1)
