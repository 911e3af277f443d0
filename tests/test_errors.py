"""Every public error keeps its type, text and attributes through pickle, copy and process pools."""

from __future__ import annotations

import builtins
import copy
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

import shmroute
from shmroute import errors
from shmroute.errors import ApiError, FailedAttempt, NoEndpoints, NotReady, ShmrouteError

SECONDS = 60.0

SAMPLES: dict[str, Any] = {
    "str": "text with {braces} and ü",
    "str | None": "text",
    "int": 3,
    "bool": True,
    "float": 1.5,
    "float | None": 2.5,
    "Mapping[str, object] | None": {"causes": [{"field": "spec.app"}]},
    "NoEndpoints": NoEndpoints("app", "ns/app", "known empty"),
    "Sequence[FailedAttempt]": (FailedAttempt("10.0.0.1:80", "refused", "connection refused", False),),
    "ShmrouteError": NotReady("area", 3.0),
}
"""An argument of each type that a public error takes; a new error may need one more."""


def subclasses(of: type[ShmrouteError]) -> set[type[ShmrouteError]]:
    """Return all errors below `of` in every module of the package."""
    return {of}.union(*(subclasses(each) for each in of.__subclasses__()))


def every_error() -> list[type[ShmrouteError]]:
    for module in pkgutil.walk_packages(shmroute.__path__, "shmroute."):
        if not re.search(r"__main__|contrib\.|pytest_plugin", module.name):
            importlib.import_module(module.name)
    # Classes that a module defines by name: `shmroute.calls.joined` makes further ones while other tests run.
    found = (each for each in subclasses(ShmrouteError) if each.__module__.startswith("shmroute."))
    defined = (each for each in found if getattr(sys.modules[each.__module__], each.__name__, None) is each)
    return sorted((each for each in defined if not each.__name__.startswith("_")), key=str)


def sample(kind: type[ShmrouteError]) -> ShmrouteError:
    """Return an error of this class, with a value for each argument."""
    if kind.__init__ in (Exception.__init__, ShmrouteError.__init__):
        return kind("what happened")
    arguments = list(inspect.signature(kind).parameters.values())
    positional = [SAMPLES.get(each.annotation, "text") for each in arguments if each.kind != each.KEYWORD_ONLY]
    named = {each.name: SAMPLES[each.annotation] for each in arguments if each.kind == each.KEYWORD_ONLY}
    return kind(*positional, **named)


def described(error: BaseException) -> tuple[Any, ...]:
    attributes = {name: repr(value) for name, value in vars(error).items() if not name.startswith("__")}
    return type(error), str(error), error.args, attributes


def fail(error: ShmrouteError) -> None:
    raise error


EVERY = pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)


@EVERY
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_error_survives_pickle(kind: type[ShmrouteError], protocol: int) -> None:
    error = sample(kind)
    assert described(pickle.loads(pickle.dumps(error, protocol))) == described(error)


@EVERY
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_error_survives_copy(kind: type[ShmrouteError], copied: Callable[[Any], Any]) -> None:
    error = sample(kind)
    error.add_note("a note of the caller's")
    twin = copied(error)
    assert twin is not error
    assert described(twin) == described(error)
    assert twin.__notes__ == ["a note of the caller's"]


def test_deepcopy_shares_no_field() -> None:
    error = sample(ApiError)
    twin = copy.deepcopy(error)
    twin.details["causes"].clear()  # type: ignore[attr-defined]
    assert error.details["causes"]  # type: ignore[attr-defined]


@pytest.mark.fault(50)
def test_every_error_passes_through_a_process_pool() -> None:
    samples = [sample(kind) for kind in every_error()]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = [pool.submit(fail, error) for error in samples]
        for error, result in zip(samples, results, strict=True):
            assert described(result.exception(SECONDS) or Exception()) == described(error)


@pytest.mark.fault(50)
def test_every_error_passes_through_a_multiprocessing_pool() -> None:
    samples = [sample(kind) for kind in every_error()]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        results = [pool.apply_async(fail, (error,)) for error in samples]
        for error, result in zip(samples, results, strict=True):
            with pytest.raises(type(error)) as raised:
                result.get(SECONDS)
            assert described(raised.value) == described(error)
        pool.close()
        pool.join()


def test_the_tree_in_the_docstring_is_the_hierarchy() -> None:
    lines = re.findall(r"^ {4}([| ]*)(?:\+-- )?(\w+) *(?:\((\w+)\))?", errors.__doc__ or "", re.MULTILINE)
    path: list[str] = []
    shown = {}
    for indent, name, other in lines:
        depth = len(indent) // 4 + (name != "ShmrouteError")
        path[depth:] = [name]
        shown[name] = path[depth - 1] if depth else "Exception"
        assert not other or issubclass(getattr(errors, name), getattr(builtins, other)), name
    public = {name: getattr(errors, name) for name in errors.__all__}
    real = {name: kind.__bases__[0].__name__ for name, kind in public.items() if issubclass(kind, Exception)}
    assert shown == real
