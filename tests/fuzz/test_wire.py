"""The watch's lines and the list's pages, damaged in every way: an event, one bad object, or garbage."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmroute.errors import ApiError
from shmroute.resources.appmodel import AppModel, InvalidAppModel
from shmroute.resources.endpointslice import EndpointSlice
from shmroute.resources.registry import APPMODELS, ENDPOINTSLICES, WatchedKind
from shmroute.sources.kubernetes import wire
from tests.apiserver.recordings import recording
from tests.fuzz.mutations import check_told, lines_of, mutated

EVENTS = [
    *lines_of("watch-events"),
    *lines_of("watch-initial-events"),
    *lines_of("watch-gone"),
    *lines_of("watch-initial-events-unsupported"),
    *lines_of("endpointslices-watch"),
]
PAGES = [recording(name).body for name in ("list-page-1", "list-page-2", "list-empty", "endpointslices-list")]

NESTED = b"[" * 100_000 + b"]" * 100_000


def check_item(item: object) -> None:
    """Assert the properties of an object that the index relies on."""
    if isinstance(item, AppModel):
        assert item.app
        assert item.version
        assert item.models
        assert len({model.name for model in item.models}) == len(item.models)
        assert "\0" not in item.app + "".join(model.name for model in item.models)
    elif isinstance(item, EndpointSlice):
        assert item.service.name
        assert item.address_type in ("IPv4", "IPv6")
        assert all(0 < port.port <= 65_535 for port in item.ports)
    elif item is not None:
        assert isinstance(item, InvalidAppModel)
        assert item.reason
        assert len(item.reason) < 2_000


@pytest.mark.fault(15)
@given(line=mutated(EVENTS), kind=st.sampled_from([APPMODELS, ENDPOINTSLICES]))
@example(line=b'{"type":"ADDED","object":' + NESTED + b"}", kind=APPMODELS)
@example(line=b'{"x":' + NESTED + b',"type":"ADDED","object":{}}', kind=APPMODELS)
@example(line=b'{"type":"ADDED","object":{"metadata":{"name":"a"},"spec":' + NESTED + b"}}", kind=APPMODELS)
@example(line=b'{"type":"DELETED","object":{"x":' + NESTED + b',"metadata":{"name":"a"}}}', kind=ENDPOINTSLICES)
@example(line=b'{"type":"ERROR","object":{"code":410,"details":{"x":' + NESTED + b"}}}", kind=ENDPOINTSLICES)
@example(line=b'{"type":"ERROR","object":{"code":410,"message":"' + b"x" * 9_999 + b'"}}', kind=APPMODELS)
def test_a_damaged_line_gives_an_event_an_invalid_object_or_garbage(line: bytes, kind: WatchedKind) -> None:
    check_line(line, kind)


def check_line(line: bytes, kind: WatchedKind) -> None:
    try:
        event = wire.decode_event(kind, line, "the watch")
    except wire.Garbled as error:
        check_told(error)
    except ApiError as error:
        check_told(error)
    else:
        if isinstance(event, wire.Listed):
            assert event.key.name
            assert event.key.namespace
            check_item(event.item)
            if event.item is not None:
                assert (event.item.key, event.item.resource_version) == (event.key, event.resource_version)
        elif isinstance(event, wire.Skipped):
            assert event.reason
        else:
            assert isinstance(event, (wire.Removed, wire.Bookmark))
            assert isinstance(event.resource_version, str)


@given(body=mutated(PAGES), kind=st.sampled_from([APPMODELS, ENDPOINTSLICES]))
@example(body=b'{"x":' + NESTED + b',"metadata":{"resourceVersion":"1"},"items":[]}', kind=APPMODELS)
@example(body=b'{"metadata":{"resourceVersion":"1"},"items":[' + NESTED + b"]}", kind=APPMODELS)
def test_a_damaged_list_gives_a_complete_list_or_garbage(body: bytes, kind: WatchedKind) -> None:
    check_page(body, kind)


def check_page(body: bytes, kind: WatchedKind) -> None:
    try:
        page = wire.decode_page(kind, body, "the list")
        listed = [wire.decode_object(kind, raw) for raw in page.objects]
    except wire.Garbled:
        return
    for each in listed:
        if isinstance(each, wire.Listed):
            check_item(each.item)
    try:
        version, next_page, identities = wire.decode_identities(kind, body, "the list")
    except wire.Garbled:
        return  # stricter: one object without a name and the whole comparison is off
    assert (version, next_page) == (page.resource_version, page.next_page)
    keyed = {each.key: each.resource_version for each in listed if each.key is not None}
    assert keyed.keys() <= identities.keys()


@given(
    data=st.lists(st.binary(max_size=50) | st.just(b"\n") | st.sampled_from(EVENTS), max_size=30).map(b"".join),
    cuts=st.lists(st.integers(0, 3_000), max_size=30),
)
def test_a_stream_cut_anywhere_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    check_lines(data, cuts)


def check_lines(data: bytes, cuts: Iterable[int]) -> None:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    lines = wire.Lines()
    found = [line for start, end in itertools.pairwise(ends) for line in lines.feed(data[start:end])]
    *whole, rest = data.split(b"\n")
    assert found == whole
    if rest:
        with pytest.raises(wire.Garbled):
            lines.end()
    else:
        lines.end()
