"""Areas of a test's own, from which `resolve`, `get` and `table` answer while a block runs."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from shmroute.errors import ConfigError
from shmroute.rows import RowKey
from shmroute.shm.writing.publisher import Publisher
from shmroute.testing.answers import Answer, Answers, checked_answer, rows_of
from shmroute.testing.table_rows import Declared, rows_of_tables
from shmroute.worker.default import use_area

FOREVER_NS: Final = 7 * 86_400 * 1_000_000_000
"""Time by which the last contact lies in the future, in nanoseconds: longer than any test takes, so the age stays 0."""

_OLDEST_NS: Final = 1 << 62
"""Greatest age that a control block can hold, in nanoseconds."""

_numbers = itertools.count()


class Tables:
    """The declared tables of a `tables` or `routes` block."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._declared: dict[str, Declared] = {}
        self._rows: dict[RowKey, bytes] = {}

    def set(self, name: str, objects: Mapping[str, Any], index: Mapping[str, str] | None = None) -> None:
        """Replace all objects of the table, in one generation.

        Args:
            name: the table's name.
            objects: key -> value; anything that msgspec writes as JSON, such as an instance of the table's type.
            index: name of an index -> its JSONPath, which begins at the value (`.region`, `.hosts[*]`); by default the
                indexes of the last call for this table.

        Raises:
            ConfigError: a name, a path or an object cannot be used. Nothing changes then.
        """
        if index is None:
            index = self._declared[name].index if name in self._declared else {}
        self._declare({**self._declared, name: Declared(dict(objects), dict(index))})

    def not_ready(self, name: str) -> None:
        """Make the table raise `TableNotReady`, as before its first complete list."""
        self._declare({**self._declared, name: Declared(None)})

    def remove(self, name: str) -> None:
        """Make the table raise `TableNotFound`, as if no watcher had declared it."""
        self._declare({each: declared for each, declared in self._declared.items() if each != name})

    def _declare(self, declared: dict[str, Declared]) -> None:
        rows = rows_of_tables(declared)
        self._declared, self._rows = declared, rows
        self._routes.set({})


class Routes:
    """The answers of a `routes` block."""

    def __init__(self, area: str) -> None:
        self.area = area
        self._publisher = Publisher(area, now_ns=time.monotonic_ns())
        self._answers: dict[str, Answer] = {}
        self.tables = Tables(self)
        """The declared tables of the same block."""

    def set(self, answers: Answers) -> None:
        """Add or replace answers, in one generation. Sets the age of the routes to 0.

        Raises:
            ConfigError: an answer cannot be used. Nothing changes then.
        """
        if not isinstance(answers, Mapping):
            raise ConfigError(f"{answers!r}: write a dict, model's name -> app's name or Answer")
        self._publish({**self._answers, **{model: checked_answer(model, answers[model]) for model in answers}})

    def remove(self, *models: str) -> None:
        """Remove these models, in one generation: `resolve` finds them no longer. Sets the age of the routes to 0."""
        self._publish({model: answer for model, answer in self._answers.items() if model not in models})

    def _publish(self, answers: dict[str, Answer]) -> None:
        self._publisher.replace(rows_of(answers) | self.tables._rows)
        self._answers = answers
        self.set_age(0.0)

    def set_age(self, seconds: float) -> None:
        """Set the age of routes and tables: the seconds since they last matched their source.

        `Reader.age`, `Table.age` and `max_age` see this age, which stays constant until `set`, `remove` or another
        `set_age`.

        Raises:
            ConfigError: `seconds` is not a number from 0 on.
        """
        if not isinstance(seconds, int | float) or not seconds >= 0:
            raise ConfigError(f"set_age({seconds!r}): write a number of seconds, 0 or more")
        now_ns = time.monotonic_ns()
        contact_ns = now_ns - int(min(seconds * 1e9, _OLDEST_NS)) if seconds else now_ns + FOREVER_NS
        self._publisher.control.beat(now_ns, contact_ns, synced=True)
        sources = [{"resource": name, "contact_ns": contact_ns} for name in self.tables._declared]
        self._publisher.control.store_status(msgspec.msgpack.encode({"sources": sources}))

    def close(self) -> None:
        """Remove the area."""
        self._publisher.close(remove=True)


@contextmanager
def routes(answers: Answers) -> Iterator[Routes]:
    """Make `shmroute.resolve` and `shmroute.get` give these answers until the block ends.

    Raises:
        ConfigError: an answer cannot be used.
    """
    given = Routes(new_area())
    try:
        given.set(answers)
        with default_area(given.area):
            yield given
    finally:
        given.close()


@contextmanager
def tables(objects: Mapping[str, Mapping[str, Any]]) -> Iterator[Tables]:
    """Make `shmroute.table` give these tables until the block ends: table name -> key -> value.

    `Tables.set` declares indexes. A test that needs routes too uses `routes` and its `tables`.

    Raises:
        ConfigError: a name or an object cannot be used.
    """
    with routes({}) as given:
        for name, values in objects.items():
            given.tables.set(name, values)
        yield given.tables


@contextmanager
def not_ready() -> Iterator[None]:
    """Make `shmroute.resolve` and `shmroute.get` raise `NotReady`, as before a watcher's first snapshot."""
    with default_area(new_area()):
        yield


@contextmanager
def default_area(area: str) -> Iterator[None]:
    """Make this the default area, in this process and its children, until the block ends."""
    former = os.environ.get("SHMROUTE_AREA")
    os.environ["SHMROUTE_AREA"] = area
    use_area(None)
    try:
        yield
    finally:
        if former is None:
            del os.environ["SHMROUTE_AREA"]
        else:
            os.environ["SHMROUTE_AREA"] = former
        use_area(None)


def new_area() -> str:
    """Return a name that no other area of this process has."""
    return f"test-{os.getpid()}-{next(_numbers)}"
