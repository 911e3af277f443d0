"""Loads handlers by name, for `shmroute watch --handler`, and checks their methods.

`package.module:name` is a handler of AppModels, `TABLE=package.module:name` one of a declared table's objects.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shmroute.errors import ConfigError

METHODS = {"on_add": 1, "on_update": 2, "on_delete": 1}
"""Method of a handler -> the number of its arguments."""


def load_handlers(names: Iterable[str]) -> tuple[tuple[str, Any], ...]:
    """Return the handlers of these names, each with its table; "" for AppModels.

    A class or function is called without arguments and returns the handler.

    The working directory is searched too, as by gunicorn and uvicorn.

    Raises:
        ConfigError: a module cannot be imported, it lacks the name, or the object is not a handler.
    """
    folder = str(Path.cwd())
    added = folder not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        return tuple(_load(name) for name in names)
    finally:
        if added:
            sys.path.remove(folder)


def check_handler(handler: Any, name: str) -> Any:
    """Return `handler` if it has the methods of `Handler`. Else raises `ConfigError`, which calls it `name`."""
    missing = [method for method in METHODS if not callable(getattr(handler, method, None))]
    if missing:
        raise ConfigError(
            f"handler {name}: {type(handler).__name__} has no method {', '.join(missing)}: "
            "a handler has on_add(object), on_update(old, new) and on_delete(object)"
        )
    for method, arguments in METHODS.items():
        function: Any = getattr(handler, method)
        if inspect.iscoroutinefunction(function):
            raise ConfigError(f"handler {name}: {method} is a coroutine function: write a plain method")
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            continue  # a C function without a signature cannot be checked
        try:
            signature.bind(*range(arguments))
        except TypeError as error:
            count = "one argument" if arguments == 1 else f"{arguments} arguments"
            raise ConfigError(f"handler {name}: {method}{signature} cannot be called with {count}: {error}") from error
    return handler


def _load(name: str) -> tuple[str, Any]:
    table, _, where = name.rpartition("=")
    module_name, _, path = where.partition(":")
    if not module_name or not path:
        raise ConfigError(
            f"handler {name!r}: write package.module:name, for example handlers.relation:Relation; in front of it"
            " TABLE= for the objects of a table"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"handler {name}: module {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ConfigError(f"handler {name}: {found!r} has no {part!r}") from error
    if inspect.isclass(found) or inspect.isfunction(found):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(
                f"handler {name}: calling it without arguments failed: {type(error).__name__}: {error}"
            ) from error
    return table, check_handler(found, name)
