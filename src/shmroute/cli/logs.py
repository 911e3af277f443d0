"""Logging of a long-running command on standard error, as text lines or as JSON. Nothing else prints there."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any

import click

from shmroute.cli.options import option

_log = logging.getLogger(__name__)

_HANDLER = "shmroute"
"""Name of the handler that `configure` installs."""

_LEVELS = ("debug", "info", "warning", "error")


def log_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--log-level` and `--log-format`; they take effect before the command begins."""

    @option("--log-level", type=click.Choice(_LEVELS), default="info")
    @option("--log-format", type=click.Choice(("text", "json")), default="text")
    @wraps(function)
    def command(log_level: str, log_format: str, **others: Any) -> None:
        configure(log_level, log_format)
        function(**others)

    return command


def configure(level: str, form: str) -> None:
    """Send shmroute's log to standard error, and that of libraries from "warning" on.

    Python's warnings and uncaught exceptions, of threads too, become log records: with `--log-format json` every line
    is JSON.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = (
        _JsonFormatter()
        if form == "json"
        else logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.set_name(_HANDLER)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("shmroute").setLevel(level.upper())
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_of_thread
    sys.unraisablehook = _log_unraisable


def is_configured() -> bool:
    """Whether `configure` has been called in this process."""
    return any(handler.get_name() == _HANDLER for handler in logging.getLogger().handlers)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    _log.critical("uncaught exception: the process ends", exc_info=(kind, error, traceback))


def _log_uncaught_of_thread(hook: threading.ExceptHookArgs) -> None:
    error = hook.exc_value
    if error is not None and not isinstance(error, SystemExit):
        name = hook.thread.name if hook.thread else "unknown"
        _log.error("thread %s has ended by an exception", name, exc_info=error)


def _log_unraisable(hook: Any) -> None:
    _log.error("exception ignored in %r", hook.object, exc_info=hook.exc_value)


class _JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        import orjson

        line: dict[str, Any] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "thread": record.threadName,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()
