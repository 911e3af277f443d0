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
from shmroute.worker import lookup
from shmroute.worker import reader as reader_module
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route

TWINS = ("plain", "native")


def _native() -> ModuleType | None:
    """The extension module, also where SHMROUTE_PURE has kept `shmroute` from loading it."""
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
"""For `pytest.mark.parametrize` and fixtures."""


def _reader_on(route_lookup: Any) -> type[Reader]:
    """The class `Reader` on another base: its module, run once more with that base in place."""
    name = "shmroute.worker.reader"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lookup, "RouteLookup", route_lookup)
        spec.loader.exec_module(module)
    made: type[Reader] = module.Reader
    return made


def reader_type(twin: str) -> type[Reader]:
    """`Reader` on the plain or the native look-up."""
    return _READERS[twin]


def decode_by(reader: Reader, decode: Callable[[bytes], Route]) -> None:
    """Have that function make the routes of a reader, in the native twin too."""
    reader._decode_route = decode  # type: ignore[assignment]
    route_lookup: Any = type(reader).__mro__[1]
    route_lookup.__init__(reader, Kind.MODEL, decode, msgspec.DecodeError, reader._position.cached_rows)


_READERS = {"plain": _reader_on(lookup.PlainRouteLookup)}
if NATIVE is not None:
    _READERS["native"] = _reader_on(NATIVE.RouteLookup)
_READERS["native" if lookup.NATIVE else "plain"] = reader_module.Reader

assert sys.modules["shmroute.worker.reader"] is reader_module
