"""Logging of a long-running command: on standard error, as lines for people or as JSON."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

__all__ = ["log_options"]

_LEVELS = ("debug", "info", "warning", "error")


def log_options(function: Callable[..., None]) -> Callable[..., None]:
    """`--log-level` and `--log-format`, applied before the command begins."""

    @click.option(
        "--log-level", envvar="SHMROUTE_LOG_LEVEL", type=click.Choice(_LEVELS), default="info", show_default=True
    )
    @click.option(
        "--log-format",
        envvar="SHMROUTE_LOG_FORMAT",
        type=click.Choice(("text", "json")),
        default="text",
        show_default=True,
    )
    @wraps(function)
    def command(log_level: str, log_format: str, **others: Any) -> None:
        configure(log_level, log_format)
        function(**others)

    return command


def configure(level: str, form: str) -> None:
    """Send shmroute's log to standard error. Libraries below are heard from "warning" on."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = (
        _JsonFormatter()
        if form == "json"
        else logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("shmroute").setLevel(level.upper())


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

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
