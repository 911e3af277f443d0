"""Waits that end at a deadline, or when another thread ends them.

Called by `shmroute.kube.connection`, and by owners of requests that must end when a watcher stops. It knows only
threads: no HTTP, no sockets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Abort", "AbortedError", "run_with_deadline"]

T = TypeVar("T")


class Abort:
    """Ends the waits of requests, from another thread. Once set it stays set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        with self._lock:
            self._set = True
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    def attach(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when this is set, at once if it already is; return a function that removes `callback`."""
        token = object()
        with self._lock:
            self._callbacks[token] = callback
            now = self._set
        if now:
            callback()

        def detach() -> None:
            with self._lock:
                self._callbacks.pop(token, None)

        return detach


class AbortedError(Exception):
    """The `Abort` of a wait was set before its work was done."""


def run_with_deadline(
    work: Callable[[], T], *, seconds: float, abort: Abort | None, discard: Callable[[T], object]
) -> T:
    """Run `work` in a new thread and return its result, or raise its exception.

    Some waits cannot be interrupted (DNS look-up, connect), so the thread is abandoned at the deadline.
    It ends by itself within the limits of `work`; `discard` is then called with its late result.

    Raises:
        TimeoutError: `work` took longer than `seconds`.
        AbortedError: `abort` was set first. If it was set before the call, `work` is not started.
        RuntimeError: the system cannot start a thread.
    """
    task = _Task(work, discard)
    detach = abort.attach(task.woken.set) if abort else None
    try:
        if not task.woken.is_set():
            threading.Thread(target=task.run, name="shmroute-request", daemon=True).start()
            task.woken.wait(seconds)
    except BaseException:  # such as KeyboardInterrupt: nobody will take the result
        task.abandon()
        raise
    finally:
        if detach is not None:
            detach()
    if task.leave():
        if abort is not None and abort.is_set():
            raise AbortedError
        raise TimeoutError
    return task.result()


class _Task(Generic[T]):
    """Work in another thread, which its caller may abandon."""

    def __init__(self, work: Callable[[], T], discard: Callable[[T], object]) -> None:
        self.woken = threading.Event()
        self._work = work
        self._discard = discard
        self._lock = threading.Lock()
        self._values: list[T] = []
        self._errors: list[Exception] = []
        self._left = False

    def run(self) -> None:
        try:
            value = self._work()
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            with self._lock:
                self._errors.append(error)
        else:
            with self._lock:
                self._values.append(value)
                left = self._left
            if left:
                self._discard(value)
        self.woken.set()

    def leave(self) -> bool:
        """Abandon the work and return True; False if it is already done."""
        with self._lock:
            self._left = not self._values and not self._errors
            return self._left

    def abandon(self) -> None:
        """Discard the result, whether it is here already or comes late."""
        if not self.leave() and self._values:
            self._discard(self._values[0])

    def result(self) -> T:
        if self._errors:
            raise self._errors[0]
        return self._values[0]
