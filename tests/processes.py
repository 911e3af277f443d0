"""Processes that tests start, and finding those they forget.

`bound` makes a command line whose process cannot outlive the one that starts it. `children` and `marked` look at /proc
for the check of what a test leaves behind (`tests.leftovers`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

_PROC = Path("/proc")

_prctl = ctypes.CDLL(None).prctl
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37

# PR_SET_PDEATHSIG (1) with SIGKILL (9) stays in force over the exec. In a process of its own instead of Popen's
# preexec_fn, which is unsafe beside threads and says so with a warning. The parent may be gone already.
_LAUNCHER = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(1, 9, 0, 0, 0) or os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

# The same by util-linux and a shell, where both are there: a fifth of the processor time, two thousand times a run.
_QUICK_LAUNCHER = '[ "$PPID" = "$0" ] || exit 1; exec "$@"'


@functools.cache
def _launcher() -> list[str]:
    """Return the command that ends a program with its parent: the parent's id, the program and arguments follow."""
    setpriv, shell = shutil.which("setpriv"), shutil.which("sh")
    if setpriv and shell:
        quick = [setpriv, "--pdeathsig", "KILL", shell, "-c", _QUICK_LAUNCHER]
        tried = [*quick, str(os.getpid()), shell, "-c", ""]
        if subprocess.run(tried, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return quick
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER]


def bound(command: Sequence[str | os.PathLike[str]]) -> list[str]:
    """`command` for `subprocess.Popen`, so that the kernel kills the process when the thread that started it ends.

    So start it in a thread that lives as long as the process shall. The process id is that of `command` itself. A
    program of this interpreter's environment comes before others of its name.

    Raises:
        FileNotFoundError: there is no such program.
    """
    program, *arguments = (os.fspath(part) for part in command)
    # The Makefile runs everything without activating the environment.
    found = shutil.which(program, path=Path(sys.executable).parent) or shutil.which(program)
    if found is None:
        raise FileNotFoundError(f"no program {program!r}")
    return [*_launcher(), str(os.getpid()), found, *arguments]


def adopts_orphans() -> bool:
    """Whether processes below this one become its children when their parent dies."""
    answer = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def adopt_orphans(adopt: bool) -> None:
    """Make this process adopt orphans, or stop doing so. Nobody waits for them then: they stay as zombies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def is_running(pid: int) -> bool:
    """Return whether the process exists; a process that has ended and was not reaped does not count."""
    try:
        state = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in (b"Z", b"X")


def command_line(pid: int) -> str:
    """Return the command line of the process; "" if it has ended."""
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used so far, in all its threads."""
    user, system = _read(pid, "stat").rpartition(b")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> set[int]:
    """Return the process's own children that run."""
    found: set[int] = set()
    for task in (_PROC / str(pid) / "task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has just ended
    return {child for child in found if is_running(child)}


def marked(pids: Iterable[int], name: str, value: str) -> set[int]:
    """Return the running processes that were executed with the environment variable `name` set to `value`."""
    entry = f"{name}={value}".encode()
    return {pid for pid in pids if entry in _read(pid, "environ").split(b"\0") and is_running(pid)}


def ancestors(pid: int) -> set[int]:
    """Return the ids of the process's ancestors."""
    found: set[int] = set()
    while pid > 1:
        stat = _read(pid, "stat").rpartition(b")")[2].split()
        pid = int(stat[1]) if stat else 0
        found.add(pid)
    return found


def running() -> set[int]:
    """Return the ids of all processes."""
    # Twice a test: pathlib takes three times as long.
    return {int(name) for name in os.listdir(_PROC) if name.isdecimal()}  # noqa: PTH208


def _read(pid: int, name: str) -> bytes:
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
