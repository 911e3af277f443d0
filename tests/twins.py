"""Both twins of the look-up in one process, whichever one `shmroute` itself runs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest

from shmroute import native as loaded
from shmroute.rows import Kind
from shmroute.worker import built_in as built_in_module
from shmroute.worker import lookup
from shmroute.worker import reader as reader_module
from shmroute.worker import tables as tables_module
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route

TWINS = ("plain", "native")


def _native() -> ModuleType | None:
    """Return the extension module, also where SHMROUTE_PURE has kept `shmroute` from loading it."""
    if loaded.native is not None:
        return loaded.native
    try:
        return importlib.import_module("shmroute._native")
    except ImportError:
        return None


NATIVE = _native()

needs_native = pytest.mark.skipif(
    NATIVE is None, reason=f"there is no native twin here ({loaded.missing}): python .ci/native.py builds it"
)

BOTH = ["plain", pytest.param("native", marks=needs_native)]
"""Names of both twins, for `pytest.mark.parametrize` and fixtures."""


def _module_again(name: str) -> ModuleType:
    """Return a second copy of the module, made by running its code again."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _reader_on(route_lookup: Any, table_lookup: Any) -> type[Reader]:
    """Return the class `Reader` and its tables on other bases: their modules, run once more with those bases in
    place."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lookup, "RouteLookup", route_lookup)
        patched.setattr(lookup, "TableLookup", table_lookup)
        table = _module_again("shmroute.worker.tables").Table
        patched.setattr(tables_module, "Table", table)
        built_in = _module_again("shmroute.worker.built_in")
        made: type[Reader] = _module_again("shmroute.worker.reader").Reader
    make_table = made._make_table

    def make_table_of_twin(reader: Reader, name: str, type: Any) -> Any:  # noqa: A002 - as in `Reader`
        with pytest.MonkeyPatch.context() as patched:  # `Reader` imports these classes at their first use
            patched.setattr(tables_module, "Table", table)
            for built in ("BuiltInTable", "Models"):
                patched.setattr(built_in_module, built, getattr(built_in, built))
            return make_table(reader, name, type)

    made._make_table = make_table_of_twin  # type: ignore[assignment, method-assign]
    return made


def reader_type(twin: str) -> type[Reader]:
    """Return `Reader` on the plain or the native look-up."""
    return _READERS[twin]


def decode_by(reader: Reader, decode: Callable[[bytes], Route]) -> None:
    """Make a reader decode its routes by this function, in the native twin too."""
    reader._decode_route = decode  # type: ignore[assignment]
    route_lookup: Any = type(reader).__mro__[1]
    route_lookup.__init__(reader, Kind.MODEL, decode, msgspec.DecodeError, reader._position.cached_rows)


_READERS = {"plain": _reader_on(lookup.PlainRouteLookup, lookup.PlainTableLookup)}
if NATIVE is not None:
    _READERS["native"] = _reader_on(NATIVE.RouteLookup, NATIVE.TableLookup)
_READERS["native" if lookup.NATIVE else "plain"] = reader_module.Reader

assert sys.modules["shmroute.worker.reader"] is reader_module
