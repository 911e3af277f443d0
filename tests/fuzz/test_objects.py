"""AppModels and EndpointSlices of any shape: a value that keeps the rules, a reason in words, or no JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmroute.errors import InvalidObject
from shmroute.resources.appmodel import find_problems, parse_appmodel
from shmroute.resources.endpointslice import parse_endpointslice
from shmroute.resources.key import parse_key
from shmroute.sources.base import Changed
from shmroute.tables import Index
from tests.apiserver import app_model, endpoint, endpoint_slice
from tests.fuzz.mutations import check_told, mutated
from tests.fuzz.test_wire import NESTED, check_item

OBJECTS = [
    msgspec.json.encode(each)
    for each in (
        {**app_model("iiot", {"a": "v1", "b": "v2"}), "x": [1.5, None]},
        app_model("iiot", annotations={"iidp.com/service": "other/name", "iidp.com/port": "http"}),
        endpoint_slice("iiot-1", "iiot", [endpoint("10.0.0.1", zone="a", pod="p"), "10.0.0.2"]),
        endpoint_slice("iiot-2", "iiot", [endpoint("fd00::1", terminating=True)], address_type="IPv6"),
    )
]

SPEC = b'{"app":"a","version":"1","models":[{"name":"m","version":"1"}]}'

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\0")
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@st.composite
def shaped(draw: st.DrawFn) -> bytes:
    """Return an object whose fields have the right names, and anything at all in them."""
    obj: Any = msgspec.json.decode(draw(st.sampled_from(OBJECTS)))
    for _ in range(draw(st.integers(1, 4))):
        place = obj
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            if isinstance(place, dict) and draw(st.booleans()):
                del place[key]
            else:
                place[key] = draw(values)
            break
    return msgspec.json.encode(obj)


@pytest.mark.fault(17)
@given(shaped() | mutated(OBJECTS) | st.binary(max_size=200))
@example(NESTED)
@example(b'{"metadata":{"name":"a"},"spec":{"app":"a","version":"1","models":' + NESTED + b"}}")
@example(b'{"metadata":{"name":"a","resourceVersion":5},"spec":null}')
def test_any_object_gives_a_value_a_reason_or_invalid_json(body: bytes) -> None:
    check_object(body)


def check_object(body: bytes) -> None:
    index = Index()
    try:
        appmodel = parse_appmodel(body)
    except (InvalidObject, msgspec.DecodeError) as error:
        check_told(error)
    else:
        assert parse_key(body) == appmodel.key
        check_item(appmodel)
        index.apply(Changed("appmodels", appmodel))
    try:
        endpoints = parse_endpointslice(body)
    except (InvalidObject, msgspec.DecodeError) as error:
        check_told(error)
    else:
        check_item(endpoints)
        if endpoints is not None:
            index.apply(Changed("endpointslices", endpoints))
    changes = index.take_changes()
    assert changes == {key: value for key, value in index.rows() if value is not None}
    assert all("\0" not in key for _, key in changes)


@given(shaped() | mutated(OBJECTS) | st.binary(max_size=200))
@example(NESTED)
@example(b'{"apiVersion":"iidp.com/v1","kind":"AppModel","metadata":{"name":"a","namespace":{}},"spec":' + SPEC + b"}")
def test_any_input_gives_problems_and_no_valid_object_is_set_aside(body: bytes) -> None:
    check_problems(body)


def check_problems(body: bytes) -> None:
    problems = find_problems(body)
    assert all(problem and len(problem) < 2_000 for problem in problems)
    if not problems:
        check_item(parse_appmodel(body))
        assert type(parse_appmodel(body)).__name__ == "AppModel"
