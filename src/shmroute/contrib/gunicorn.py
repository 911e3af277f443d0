"""Hooks for gunicorn: they run a watcher beside the server, which ends after the last worker.

In `gunicorn.conf.py`:

    from shmroute.contrib.gunicorn import on_exit, post_fork, when_ready

The watcher's options are environment variables (`SHMROUTE_MANIFESTS`, `SHMROUTE_NAMESPACE` and so on, as listed by
`shmroute watch --help`); the configuration file may set them in `os.environ`. The watcher is started after the bind and
before the first worker, in a process group of its own. A worker waits up to `SHMROUTE_WAIT` seconds (10 unless set) for
the first snapshot before it takes requests.

The state is kept in `shmroute.supervise.hooks`, not in the configuration file, because SIGHUP runs that file again.
During a binary upgrade (USR2) the new master's watcher stands by and then takes the area over. If no hook runs (SIGKILL
of the arbiter), the watcher ends with the last worker.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any, Final

from shmroute.contrib.waiting import pauses
from shmroute.errors import ConfigError
from shmroute.supervise import hooks

__all__ = ["on_exit", "post_fork", "when_ready"]

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def when_ready(server: Any) -> None:
    """Start the watcher. The arbiter calls this once it listens.

    If the workers run as another user (`user =`, `group =`), their group may read the area.

    Raises:
        ConfigError: this process may not give the area to the workers' group.
    """
    area = hooks.start(_workers_group(server.cfg))
    server.log.info("shmroute: starting a watcher of area %r beside this server", area)


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """Wait for the first snapshot. Called in a new worker, which still has the arbiter's signal handlers."""
    former = {number: signal.signal(number, _leave) for number in _ENDING}
    try:
        for seconds in pauses(warn=server.log.warning):
            time.sleep(seconds)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def on_exit(server: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """End the watcher. The arbiter calls this when its last worker has ended."""
    hooks.stop()


def _workers_group(configuration: Any) -> str:
    """Return the group of workers that run as another user; "" if they run as this user."""
    if configuration.uid == os.geteuid():
        return ""
    group: int = configuration.gid
    if os.geteuid() != 0 and group not in (os.getegid(), *os.getgroups()):
        raise ConfigError(
            f"gunicorn's workers run as user {configuration.uid} and group {group}, and this process may not give them"
            f" the area: start gunicorn as root or as a member of group {group}, or leave out `user` and `group`"
        )
    return str(group)


def _leave(*_: object) -> None:
    sys.exit(0)
