"""`shmroute audit`: have the running watcher compare itself with its server now."""

from __future__ import annotations

import os
import signal
import time
from typing import Final

import click

from shmroute.cli import options
from shmroute.errors import ConfigError, ShmrouteError
from shmroute.watcher.report import status_of
from shmroute.watcher.status import AuditStatus, Status

_POLL_SECONDS: Final = 0.2


@click.command()
@options.area
@click.option("--timeout", type=options.Seconds(), default=60.0, help="Seconds to wait for the result.")
def command(area: str, timeout: float) -> None:
    """Compare a fresh list of the cluster with what is served; differences are repaired.

    Asks the watcher, so run it where its process can be signalled (in a pod: in the watcher's container). Ends with 1
    if there were differences, or an audit could not be completed.
    """
    control, status = status_of(area)
    before = _audits(status)
    try:
        os.kill(control.writer_pid, signal.SIGUSR1)
    except (ProcessLookupError, PermissionError) as error:
        raise ConfigError(f"the watcher (pid {control.writer_pid}) cannot be signalled from here: {error}") from None
    resources = status.audited if status else ()
    if not resources:
        raise ConfigError("this watcher follows a folder: audit compares with an API server only")
    deadline = time.monotonic() + timeout
    done: dict[str, AuditStatus] = {}
    while len(done) < len(resources):
        if time.monotonic() > deadline:
            raise ShmrouteError(f"no result within {timeout:g} s")
        time.sleep(_POLL_SECONDS)
        audits = _audits(status_of(area)[1])
        done = {name: audit for name, audit in audits.items() if _is_newer(audit, before.get(name))}
    failed = False
    for name, audit in sorted(done.items()):
        found = audit.differences - (before[name].differences if name in before else 0)
        failed = failed or bool(found or audit.problem)
        click.echo(f"{name}: {audit.problem or f'{found} differences'}")
    if failed:
        raise SystemExit(1)


def _audits(status: Status | None) -> dict[str, AuditStatus]:
    return {audit.resource: audit for audit in status.audits} if status else {}


def _is_newer(audit: AuditStatus, before: AuditStatus | None) -> bool:
    # Not later, but another: the wall clock may have been set back.
    return before is None or audit.newest != before.newest
