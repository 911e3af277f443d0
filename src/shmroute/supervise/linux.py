"""prctl, waitid and /proc helpers that the standard library lacks.

Used by `run` and `keep`, which have one thread each: otherwise it is not safe to run Python between fork and exec.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final, NamedTuple

from shmroute.errors import ConfigError

_log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
_PROC: Final = Path("/proc")


def require_linux(what: str) -> None:
    """Raise `ConfigError` unless this is Linux: other systems lack prctl, waitid and /proc."""
    if sys.platform != "linux":
        raise ConfigError(
            f"{what} needs Linux (prctl, waitid and /proc): start `shmroute watch` and the server by themselves here"
        )


def adopt_orphans() -> None:
    """Make orphans among this process's descendants its own children, instead of children of process 1."""
    assert _prctl is not None  # noqa: S101 - `require_linux`
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(
    command: Sequence[str],
    *,
    mask: AbstractSet[int],
    environment: Mapping[str, str],
    inherited: Sequence[int] = (),
    own_group: bool = False,
    with_parent: bool = False,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` with the signal mask `mask`.

    Args:
        command: program and arguments.
        mask: signals that stay blocked in it.
        environment: its environment variables.
        inherited: descriptors of this process that it inherits. Without `own_group` it also inherits those that this
            process was started with, such as sockets.
        own_group: put it into its own process group, without standard input; the terminal's signals do not reach it.
        with_parent: have the kernel send it SIGTERM when this process dies.
        stderr: a descriptor for its standard error; by default this process's.

    Raises:
        OSError: the command cannot be started.
    """
    parent = os.getpid()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if with_parent and _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # the parent has already died
                os.kill(os.getpid(), signal.SIGTERM)
        for descriptor in inherited:
            os.set_inheritable(descriptor, True)

    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL if own_group else None,
        stderr=stderr,
        close_fds=own_group,
        pass_fds=inherited if own_group else (),
        process_group=0 if own_group else None,
        preexec_fn=prepare,
    )


def send(pid: int, number: int) -> bool:
    """Send signal `number` to the process `pid`.

    Returns:
        False if this process may not signal it, because it runs as another user; this is logged. True otherwise, also
        if it has already ended.
    """
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        _log.error("pid %d runs as another user: signal %d cannot be sent to it", pid, number)
        return False
    return True


def finished() -> Iterator[int]:
    """Yield process ids of children that have ended; the same one until the caller has reaped it."""
    if sys.platform != "linux":  # `require_linux` has refused to begin
        return
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None:
            return
        yield found.si_pid


class ProcessState(NamedTuple):
    """The used fields of /proc/PID/stat."""

    letter: str
    """R running, S sleeping, T stopped, Z ended and not reaped; others as in proc(5)."""
    parent: int
    cpu_ticks: int
    """CPU time of all threads, in clock ticks."""


def state_of(pid: int) -> ProcessState | None:
    """Return the state of the process; None if there is no such process."""
    try:
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return ProcessState(fields[0].decode(), int(fields[1]), int(fields[11]) + int(fields[12]))


def children() -> set[int]:
    """Return the process ids of this process's children, including those that have ended and are not reaped."""
    own = os.getpid()
    processes = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return {pid for pid in processes if (state := state_of(pid)) is not None and state.parent == own}


def environment_of(pid: int) -> set[bytes]:
    """Return the environment of the process at its start, as `NAME=value`; empty if it cannot be read."""
    try:
        return set((_PROC / str(pid) / "environ").read_bytes().split(b"\0"))
    except OSError:
        return set()
