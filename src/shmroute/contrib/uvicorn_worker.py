"""gunicorn's worker class for uvicorn, with the shutdown of `shmroute.contrib.uvicorn`.

    gunicorn --worker-class shmroute.contrib.uvicorn_worker.UvicornWorker app:app

Needs the package `uvicorn-worker`, whose class it is otherwise.
"""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker as _Base

from shmroute.contrib.uvicorn import Protocol

__all__ = ["UvicornWorker"]


class UvicornWorker(_Base):  # type: ignore[misc]
    """A worker that answers what it has accepted before it closes."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {**_Base.CONFIG_KWARGS, "http": Protocol}
