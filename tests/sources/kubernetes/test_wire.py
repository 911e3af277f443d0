"""Decoding of a real server's bytes, cut anywhere, and of bytes that no server sends."""

from __future__ import annotations

import json
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmroute.errors import ApiError
from shmroute.resources.appmodel import AppModel, InvalidAppModel
from shmroute.resources.endpointslice import EndpointSlice
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS, ENDPOINTSLICES, WatchedKind
from shmroute.sources.kubernetes import wire
from shmroute.sources.kubernetes.explain import is_out_of_range
from shmroute.sources.kubernetes.sync_state import identity_of
from shmroute.sources.kubernetes.wire import (
    Bookmark,
    Garbled,
    Lines,
    Listed,
    Removed,
    Skipped,
    WatchEvent,
    decode_event,
    decode_identities,
    decode_object,
    decode_page,
)
from tests.apiserver.lists import partial_metadata
from tests.apiserver.recordings import recording

STREAMS = [
    ("watch-events", APPMODELS),
    ("watch-initial-events", APPMODELS),
    ("watch-rv0", APPMODELS),
    ("endpointslices-watch", ENDPOINTSLICES),
]


APPMODEL_LIST = b'{"apiVersion":"iidp.com/v1","kind":"AppModelList",%s}'


def decode(kind: WatchedKind, *pieces: bytes) -> list[WatchEvent]:
    lines = Lines()
    events = [decode_event(kind, line, "GET x") for piece in pieces for line in lines.feed(piece)]
    lines.end()
    return events


@pytest.mark.parametrize(("name", "kind"), STREAMS, ids=[name for name, _ in STREAMS])
def test_a_recorded_stream_cut_anywhere_gives_the_same_events(name: str, kind: WatchedKind) -> None:
    stream = recording(name).stream
    whole = decode(kind, stream)

    assert whole
    assert not [event for event in whole if isinstance(event, Skipped)]
    for at in range(len(stream) + 1):
        assert decode(kind, stream[:at], stream[at:]) == whole
    assert decode(kind, *(stream[at : at + 1] for at in range(len(stream)))) == whole


@pytest.mark.parametrize(("name", "kind"), STREAMS, ids=[name for name, _ in STREAMS])
def test_a_recorded_stream_that_ends_within_a_line_is_garbled(name: str, kind: WatchedKind) -> None:
    stream = recording(name).stream
    for at in range(1, len(stream)):
        if stream[at - 1 : at] == b"\n":
            decode(kind, stream[:at])
        else:
            with pytest.raises(Garbled, match="within a line"):
                decode(kind, stream[:at])


def test_recorded_events_are_decoded() -> None:
    added, modified, left, back, deleted, bookmark = decode(APPMODELS, recording("watch-events").stream)

    key = ObjectKey("wire", "late")
    assert isinstance(added, Listed)
    assert isinstance(added.item, AppModel)
    assert (added.key, added.resource_version, added.item.version) == (key, "222", "v1")
    assert isinstance(modified, Listed)
    assert isinstance(modified.item, AppModel)
    assert modified.item.version == "v2"
    assert isinstance(left, Removed)  # the label went
    assert isinstance(back, Listed)
    assert isinstance(deleted, Removed)
    assert isinstance(bookmark, Bookmark)
    assert int(deleted.resource_version) <= int(bookmark.resource_version)


def test_a_streaming_list_marks_its_end_and_lists_invalid_objects() -> None:
    *listed, bookmark = decode(APPMODELS, recording("watch-initial-events").stream)

    assert bookmark == Bookmark("228", initial_events_end=True)
    items = {event.key.name: event.item for event in listed if isinstance(event, Listed)}
    assert items.keys() == {"app-0", "app-1", "app-2", "iiot", "noapp", "nospec"}
    assert isinstance(items["noapp"], InvalidAppModel)
    assert isinstance(items["nospec"], InvalidAppModel)


def test_recorded_endpointslices_are_read_to_their_end() -> None:
    changed, removed, bookmark = decode(ENDPOINTSLICES, recording("endpointslices-watch").stream)

    assert isinstance(changed, Listed)
    assert isinstance(changed.item, EndpointSlice)
    assert changed.item.endpoints[0].terminating
    assert removed == Removed(ObjectKey("wire", "iiot-b2"), "237")
    assert bookmark == Bookmark("237", initial_events_end=False)


def test_a_slice_without_a_service_is_listed_and_not_used() -> None:
    line = b'{"type":"ADDED","object":{"metadata":{"name":"s","namespace":"n","resourceVersion":"7"}}}'

    assert decode_event(ENDPOINTSLICES, line, "x") == Listed(ObjectKey("n", "s"), "7", None, identity_of("", "7"))


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [("watch-gone", 410, "Expired"), ("watch-initial-events-unsupported", 500, "InternalError")],
)
def test_a_recorded_error_event_is_a_refusal(name: str, code: int, reason: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode(APPMODELS, recording(name).stream)

    assert (caught.value.status, caught.value.reason) == (code, reason)


def test_an_error_event_may_carry_retry_after() -> None:
    status = {"code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 5}}

    with pytest.raises(ApiError) as caught:
        decode_event(APPMODELS, json.dumps({"type": "ERROR", "object": status}).encode(), "x")

    assert caught.value.retry_after_seconds == 5.0


def test_recorded_pages_are_linked_by_their_token() -> None:
    first, second = (decode_page(APPMODELS, recording(f"list-page-{number}").body, "x") for number in (1, 2))

    assert first.next_page
    assert first.resource_version == second.resource_version == "220"
    names = [decode_object(APPMODELS, raw).key for page in (first, second) for raw in page.objects]
    assert [key.name for key in names if key] == ["app-0", "app-1", "app-2", "iiot"]


def test_an_empty_list_has_a_resource_version() -> None:
    page = decode_page(APPMODELS, recording("list-empty").body, "x")

    assert (page.resource_version, page.next_page, page.objects) == ("220", "", [])


def test_a_list_of_a_built_in_kind_has_no_token_at_all() -> None:
    page = decode_page(ENDPOINTSLICES, recording("endpointslices-list").body, "x")

    assert page.next_page == ""
    assert len(page.objects) == 2


def test_a_list_whose_items_are_null_is_empty() -> None:
    body = APPMODEL_LIST % b'"metadata":{"resourceVersion":"5"},"items":null'

    assert decode_page(APPMODELS, body, "x").objects == []


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("v1", "PodList"),
        ("iidp.com/v1", "EndpointSliceList"),
        ("iidp.com/v2", "AppModelList"),
        ("iidp.com/v1", "AppModel"),
        ("", "AppModelList"),
        ("iidp.com/v1", ""),
    ],
)
def test_an_answer_of_another_kind_is_not_an_empty_list(api_version: str, kind: str) -> None:
    body = b'{"apiVersion":"%s","kind":"%s","metadata":{"resourceVersion":"5"},"items":[]}'
    answer = body % (api_version.encode(), kind.encode())

    for read in (partial(decode_page, APPMODELS), partial(decode_identities, APPMODELS)):
        with pytest.raises(Garbled, match=r"not AppModelList of iidp\.com/v1"):
            read(answer, "x")


@pytest.mark.parametrize("event", ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"])
def test_an_event_about_another_kind_is_garbage(event: str) -> None:
    head = b'{"type":"%s","object":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","resourceVersion":"5"}}}'

    with pytest.raises(Garbled, match=r"not AppModel of iidp\.com/v1"):
        decode_event(APPMODELS, head % event.encode(), "x")


def test_a_list_of_metadata_gives_the_same_identities_as_whole_objects() -> None:
    body = recording("list-rv0").body

    assert decode_identities(APPMODELS, partial_metadata(body), "x") == decode_identities(APPMODELS, body, "x")


SURROGATES = [
    (rb"\ud800", "\ufffd"),
    (rb"\uDFFFx", "\ufffdx"),
    (rb"\ud800\u0041", "\ufffdA"),
    (rb"\ud83d\ude00\ud800", "\U0001f600\ufffd"),
    (rb"\\ud800\ud800", "\\ud800\ufffd"),
]


@pytest.mark.parametrize(("escaped", "read"), SURROGATES)
def test_a_lone_surrogate_is_replaced_as_in_go(escaped: bytes, read: str) -> None:
    head = b'{"metadata":{"name":"one","namespace":"n","resourceVersion":"5"},"spec":{"app":"a","version":"'
    one = head + escaped + b'","models":[{"name":"m","version":"v"}]}}'
    body = APPMODEL_LIST % (b'"metadata":{"resourceVersion":"5"},"items":[%s]' % one)

    [raw] = decode_page(APPMODELS, body, "x").objects
    listed = decode_object(APPMODELS, raw)
    assert isinstance(listed, Listed)
    assert isinstance(listed.item, AppModel)
    assert listed.item.version == read
    assert decode_event(APPMODELS, b'{"type":"ADDED","object":%s}' % one, "x") == listed


@pytest.mark.parametrize("seconds", [b"9" * 400, b"-1", b"true", b'"1"', b"1.5", b"null"])
def test_an_invalid_retry_after_is_ignored(seconds: bytes) -> None:
    line = b'{"type":"ERROR","object":{"code":429,"details":{"retryAfterSeconds":%s}}}' % seconds

    with pytest.raises((ApiError, Garbled)) as caught:
        decode_event(APPMODELS, line, "x")
    assert getattr(caught.value, "retry_after_seconds", None) is None


def test_a_list_gives_the_identity_of_each_object() -> None:
    body = recording("list-rv0").body
    revision, token, versions = decode_identities(APPMODELS, body, "x")
    page = decode_page(APPMODELS, body, "x")

    assert (revision, token) == (page.resource_version, page.next_page)
    listed = [decode_object(APPMODELS, raw) for raw in page.objects]
    assert versions == {each.key: each.identity for each in listed}


@pytest.mark.parametrize("name", ["list-forbidden", "list-unknown-resource", "list-expired-continue", "watch-events"])
def test_an_answer_that_is_not_a_list_is_not_an_empty_list(name: str) -> None:
    for read in (partial(decode_page, APPMODELS), partial(decode_identities, APPMODELS)):
        with pytest.raises(Garbled):
            read(recording(name).body, "x")


@pytest.mark.parametrize("metadata", [b'"metadata":{}', b'"metadata":{"resourceVersion":""}'])
def test_a_list_without_a_resource_version_is_refused(metadata: bytes) -> None:
    for read in (partial(decode_page, APPMODELS), partial(decode_identities, APPMODELS)):
        with pytest.raises(Garbled):
            read(APPMODEL_LIST % (metadata + b',"items":[]'), "x")


@pytest.mark.parametrize("reason", [b"Expired", b"Gone"])
def test_an_error_event_without_a_code_is_read_by_its_reason(reason: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        decode_event(APPMODELS, b'{"type":"ERROR","object":{"reason":"%s"}}' % reason, "x")

    assert is_out_of_range(caught.value)


@pytest.mark.parametrize("cut", [1, 100, 1000, -2])
def test_a_truncated_list_is_an_error(cut: int) -> None:
    with pytest.raises(Garbled):
        decode_page(APPMODELS, recording("list-page-1").body.rstrip()[:cut], "x")


GARBAGE = {
    "a blank line": b"",
    "spaces": b"  ",
    "a proxy's page": b"<html>502 Bad Gateway</html>",
    "half an event": b'{"type":"ADDED","object":{"metadata":{"na',
    "two events on a line": b'{"type":"BOOKMARK","object":{}}{"type":"BOOKMARK","object":{}}',
    "bad UTF-8 in what is read": b'{"type":"ADDED","object":{"metadata":{"name":"\xff","resourceVersion":"1"}}}',
    "bad UTF-8 in what is skipped": b'{"type":"ADDED","object":{"x":"\xff","metadata":{"name":"n"}}}',
    "an unknown type": b'{"type":"EXPLODED","object":{"metadata":{}}}',
    "no type": b'{"object":{"metadata":{}}}',
    "no object": b'{"type":"ADDED"}',
    "an error without a code": b'{"type":"ERROR","object":{"kind":"Status","message":"?"}}',
    "a bookmark without a resourceVersion": b'{"type":"BOOKMARK","object":{"metadata":{}}}',
    "a bookmark with an empty resourceVersion": b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":""}}}',
    "no JSON object": b"[]",
    "a number": b"17",
}


@pytest.mark.parametrize("line", GARBAGE.values(), ids=GARBAGE.keys())
def test_an_impossible_event_ends_the_stream(line: bytes) -> None:
    with pytest.raises(Garbled):
        decode_event(APPMODELS, line, "x")


@pytest.mark.parametrize("kind", [APPMODELS, ENDPOINTSLICES], ids=["appmodels", "endpointslices"])
@pytest.mark.parametrize(
    "obj", [b"null", b"[]", b"{}", b'"text"', b'{"metadata":null}', b'{"metadata":{"name":7}}', b'{"metadata":{}}']
)
@pytest.mark.parametrize("event_type", [b"ADDED", b"MODIFIED", b"DELETED"])
def test_an_object_without_a_name_is_skipped_and_the_stream_continues(
    kind: WatchedKind, obj: bytes, event_type: bytes
) -> None:
    event = decode_event(kind, b'{"type":"%s","object":%s}' % (event_type, obj), "x")

    assert isinstance(event, Skipped)
    assert event.key is None
    assert event.reason


def test_an_object_against_its_schema_is_skipped_and_named() -> None:
    metadata = {"name": "s", "namespace": "n", "resourceVersion": "9"}
    line = json.dumps({"type": "ADDED", "object": {"metadata": metadata, "endpoints": "none"}}).encode()

    event = decode_event(ENDPOINTSLICES, line, "x")

    assert isinstance(event, Skipped)
    assert (event.key, event.resource_version) == (ObjectKey("n", "s"), "9")


def test_an_endless_line_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LINE_MAX_BYTES", 1_000)
    lines = Lines()
    lines.feed(b"x" * 1_000)

    with pytest.raises(Garbled, match="more than 1000 bytes"):
        lines.feed(b"x")


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_chunks_of_any_size_give_the_same_lines(pieces: list[bytes]) -> None:
    lines = Lines()
    fed = [line for piece in pieces for line in lines.feed(piece)]
    *whole, rest = b"".join(pieces).split(b"\n")

    assert fed == whole
    if rest:
        with pytest.raises(Garbled):
            lines.end()
    else:
        lines.end()


@given(st.binary(max_size=200), st.sampled_from([APPMODELS, ENDPOINTSLICES]))
def test_any_bytes_are_decoded_or_refused(data: bytes, kind: WatchedKind) -> None:
    wrapped = b'{"type":"ADDED","object":%s}' % data
    for line in (data, wrapped):
        try:
            event = decode_event(kind, line, "x")
        except (Garbled, ApiError):
            continue
        assert isinstance(event, Listed | Removed | Bookmark | Skipped)
    for body in (data, APPMODEL_LIST % (b'"metadata":{"resourceVersion":"1"},"items":[%s]' % data)):
        try:
            for raw in decode_page(kind, body, "x").objects:
                decode_object(kind, raw)
        except Garbled:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from([(APPMODELS, "spec"), *((ENDPOINTSLICES, name) for name in ("endpoints", "ports", "addressType"))]),
    json_values,
)
def test_an_object_of_any_shape_is_identified_by_its_name(where: tuple[WatchedKind, str], value: object) -> None:
    kind, field = where
    obj = {"metadata": {"name": "n", "namespace": "s"}, field: value}

    event = decode_object(kind, msgspec.Raw(json.dumps(obj).encode()))

    assert event.key == ObjectKey("s", "n")
