"""Waits that end at a deadline, or when another thread ends them.

Called by `shmroute.kube.connection`, and by owners of requests that must end when a watcher stops. It knows only
threads: no HTTP, no sockets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

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
    result: Future[T] = Future()
    woken = threading.Event()

    def run() -> None:
        try:
            value = work()
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            with suppress(InvalidStateError):  # the caller has left
                result.set_exception(error)
        else:
            try:
                result.set_result(value)
            except InvalidStateError:
                discard(value)
        woken.set()

    detach = abort.attach(woken.set) if abort else None
    try:
        if not woken.is_set():
            threading.Thread(target=run, name="shmroute-request", daemon=True).start()
            woken.wait(seconds)
    except BaseException:  # such as KeyboardInterrupt: nobody will take the result
        if not result.cancel() and result.exception() is None:
            discard(result.result())
        raise
    finally:
        if detach is not None:
            detach()
    if result.cancel():  # False once there is a result
        if abort is not None and abort.is_set():
            raise AbortedError
        raise TimeoutError
    return result.result()
