"""Objects parsed from JSON: the output of a real API server, and hostile input."""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import msgspec
import pytest

from shmroute.errors import InvalidObject
from shmroute.resources.appmodel import AppModel, InvalidAppModel, ModelVersion, parse_appmodel
from shmroute.resources.endpointslice import EndpointSlice, SliceEndpoint, SlicePort, parse_endpointslice
from shmroute.resources.key import ObjectKey, parse_key
from tests.apiserver.recordings import recording

SPEC = {"app": "app", "version": "v-1", "models": [{"name": "m", "version": "1"}]}


def object_in(name: str) -> bytes:
    """Return the object in the response of a recording."""
    return recording(name).body


def raw_items_in(name: str) -> list[msgspec.Raw]:
    class List(msgspec.Struct):
        items: list[msgspec.Raw]

    return msgspec.json.decode(object_in(name), type=List).items


def watched_in(name: str) -> list[tuple[str, msgspec.Raw]]:
    class Watched(msgspec.Struct):
        type: str
        object: msgspec.Raw

    decoded = [msgspec.json.decode(line, type=Watched) for line in recording(name).lines]
    return [(each.type, each.object) for each in decoded]


def written(manifest: object) -> bytes:
    return json.dumps(manifest).encode()


def with_metadata(**metadata: object) -> bytes:
    return written({"metadata": {"name": "a", "namespace": "n", **metadata}, "spec": SPEC})


def with_spec(**spec: object) -> bytes:
    return written({"metadata": {"name": "a", "namespace": "n"}, "spec": {**SPEC, **spec}})


def with_models(*models: object) -> bytes:
    return with_spec(models=list(models))


def reason_of(body: bytes) -> str:
    parsed = parse_appmodel(body)
    assert isinstance(parsed, InvalidAppModel)
    return parsed.reason


# --- AppModels -----------------------------------------------------------------------------------------------


def test_every_field_of_an_appmodel_is_read() -> None:
    kind, body = watched_in("watch-events")[1]
    assert kind == "MODIFIED"
    assert parse_appmodel(body) == AppModel(
        key=ObjectKey("wire", "late"),
        created="2026-11-23T19:04:31Z",
        resource_version="223",
        app="late",
        version="v2",
        models=(ModelVersion("late_model", "v2"),),
        service=ObjectKey("wire", "late"),
        port="",
    )


def test_every_appmodel_of_the_recorded_lists_is_read() -> None:
    for name in ("list-page-1", "list-page-2", "list-rv0"):
        for raw in raw_items_in(name):
            parsed = parse_appmodel(raw)
            assert parsed.key.namespace == "wire"
            assert parsed.resource_version


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, msgspec.Raw])
def test_every_kind_of_buffer_is_accepted(kind: Any) -> None:
    assert isinstance(parse_appmodel(kind(with_spec())), AppModel)
    assert isinstance(parse_appmodel(kind(with_spec(app=""))), InvalidAppModel)


@pytest.mark.parametrize(
    ("name", "key", "reason"),
    [
        ("create-without-spec", "wire/nospec", "spec is missing"),
        ("create-without-app", "wire/noapp", "spec.app is missing"),
    ],
)
def test_an_object_without_metadata_or_spec_is_invalid_with_a_reason(name: str, key: str, reason: str) -> None:
    parsed = parse_appmodel(object_in(name))
    assert isinstance(parsed, InvalidAppModel)
    assert str(parsed.key) == key
    assert parsed.reason == reason
    assert parsed.resource_version in ("215", "216")


def test_an_object_without_a_namespace_gets_the_given_one() -> None:
    body = written({"metadata": {"name": "a"}, "spec": SPEC})
    assert parse_appmodel(body).key == ObjectKey("default", "a")
    assert parse_appmodel(body, default_namespace="other").key == ObjectKey("other", "a")


def test_unused_fields_may_have_any_value() -> None:
    body = b'{"metadata":{"name":"a","labels":5,"x":1e999},"spec":%b,"status":[[null]]}' % written(SPEC)
    assert isinstance(parse_appmodel(body), AppModel)


def test_numbers_of_any_size_stay_as_they_were_written() -> None:
    assert reason_of(b'{"metadata":{"name":"a"},"x":1e999}') == "spec is missing"
    body = b'{"metadata":{"name":"a"},"spec":{"app":"a","version":1.70,"models":[{"name":"m","version":1e999}]}}'
    assert reason_of(body) == (
        'spec.version is a number: write "1.70", in quotes; '
        'spec.models[0].version is a number: write "1E+999", in quotes'
    )


def test_null_counts_as_absent() -> None:
    parsed = parse_appmodel(with_metadata(creationTimestamp=None, resourceVersion=None, annotations=None))
    assert isinstance(parsed, AppModel)
    assert (parsed.created, parsed.resource_version) == ("", "")


@pytest.mark.parametrize(
    ("annotations", "service", "port"),
    [
        ({"iidp.com/service": "web"}, "n/web", ""),
        ({"iidp.com/service": "shop/web"}, "shop/web", ""),
        ({"iidp.com/port": "http"}, "n/a", "http"),
        ({"iidp.com/port": "8080"}, "n/a", "8080"),
        ({"iidp.com/service": "", "iidp.com/port": ""}, "n/a", ""),
        ({"iidp.com/service": None}, "n/a", ""),
        ({"other": "x"}, "n/a", ""),
    ],
)
def test_annotations_name_the_service_and_the_port(annotations: dict[str, str], service: str, port: str) -> None:
    parsed = parse_appmodel(with_metadata(annotations=annotations))
    assert isinstance(parsed, AppModel)
    assert (str(parsed.service), parsed.port) == (service, port)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("service", "Web"),
        ("service", "a/b/c"),
        ("service", "/web"),
        ("service", "web/"),
        ("service", "x" * 64),
        ("service", "web\0"),
        ("service", 5),
        ("port", "0"),
        ("port", "65536"),
        ("port", "9" * 5000),
        ("port", "-1"),
        ("port", "80 "),
        ("port", "HTTP"),
        ("port", "٨٠"),
        ("port", 80),
    ],
)
def test_a_bad_annotation_makes_the_object_invalid_and_is_named(annotation: str, value: object) -> None:
    reason = reason_of(with_metadata(annotations={f"iidp.com/{annotation}": value}))
    assert reason.startswith(f"annotation iidp.com/{annotation} is ")
    assert len(reason) < 300


@pytest.mark.parametrize(
    "metadata",
    [{}, {"name": ""}, {"name": None}, {"name": 5}, {"name": "a/b"}, {"name": "a\0"}, {"name": "x" * 1_000_000}],
    ids=["missing", "empty", "null", "number", "slash", "NUL", "a megabyte"],
)
def test_an_object_without_a_usable_name_is_an_error(metadata: dict[str, object]) -> None:
    for manifest in ({"metadata": metadata, "spec": SPEC}, {"metadata": metadata}):
        with pytest.raises(InvalidObject) as raised:
            parse_appmodel(written(manifest))
        assert len(str(raised.value)) < 300


@pytest.mark.parametrize("namespace", ["a/b", "\0", "x" * 1_000])
def test_an_object_of_an_unusable_namespace_is_an_error(namespace: str) -> None:
    with pytest.raises(InvalidObject):
        parse_appmodel(written({"metadata": {"name": "a", "namespace": namespace}, "spec": SPEC}))


@pytest.mark.parametrize("body", [b"null", b"[]", b'"x"', b"5", b"{}", b'{"metadata":null}', b'{"metadata":[]}'])
def test_json_that_is_not_an_object_is_an_error(body: bytes) -> None:
    for parse in (parse_appmodel, parse_endpointslice, parse_key):
        with pytest.raises(InvalidObject):
            parse(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"x",
        b'{"metadata":{"name":"a"}',
        b'{"metadata":{"name":"a"}} x',
        b'{"metadata":{"name":"a","namespace":"\xff"}}',
        b'{"metadata":{"name":"a"},"spec":"\xff"}',
        b'{"metadata":{"name":"a\x01"}}',
        b'{"metadata":{"name":"\\ud800"}}',
        b'{"metadata":{"name":5},"labels"',
        b'{"metadata":{"name":"a"},"spec":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=[
        "empty",
        "blank",
        "letters",
        "cut",
        "too much",
        "not UTF-8",
        "not UTF-8, ignored",
        "raw control",
        "half",
        "bad and cut",
        "deep",
    ],
)
def test_invalid_json_means_a_damaged_stream_not_an_invalid_object(body: bytes) -> None:
    for parse in (parse_appmodel, parse_endpointslice, parse_key):
        if parse is parse_appmodel or b"spec" not in body:
            with pytest.raises(msgspec.DecodeError) as raised:
                parse(body)
            assert not isinstance(raised.value, msgspec.ValidationError)


def test_every_cut_of_a_real_object_is_a_damaged_stream() -> None:
    body = bytes(watched_in("watch-events")[0][1])
    for end in range(len(body)):
        with pytest.raises(msgspec.DecodeError):
            parse_appmodel(body[:end])


# --- limits --------------------------------------------------------------------------------------------------


def test_names_have_at_most_253_characters() -> None:
    longest = "ä" * 253
    body = with_spec(app=longest, version=longest, models=[{"name": longest, "version": longest}])
    assert isinstance(parse_appmodel(body), AppModel)
    for field, spec in (
        ("spec.app", {"app": longest + "x"}),
        ("spec.version", {"version": longest + "x"}),
        ("spec.models[0].name", {"models": [{"name": longest + "x", "version": "1"}]}),
        ("spec.models[0].version", {"models": [{"name": "m", "version": longest + "x"}]}),
    ):
        assert reason_of(with_spec(**spec)) == f"{field} has 254 characters, at most 253 are taken"


def test_an_app_has_at_most_12000_models() -> None:
    models = [{"name": f"assembly_defect_classifier_{number:06d}", "version": "v-1"} for number in range(12_001)]
    parsed = parse_appmodel(with_models(*models[:-1]))
    assert isinstance(parsed, AppModel)
    assert len(parsed.models) == 12_000
    assert reason_of(with_models(*models)) == "spec.models has 12001 items, at most 12000 are taken"


@pytest.mark.parametrize(
    "name",
    [
        lambda n: f"{n}" * 200_000,
        lambda n: f"{n:020d}",
        lambda n: f"{n:052d}",
        lambda n: f"{n:0250d}",
        lambda n: "é" * 200 + str(n),
    ],
    ids=["one name", "short names", "middling names", "long names", "names beyond ASCII"],
)
def test_a_megabyte_of_names_is_invalid_with_a_short_reason(name: Any) -> None:
    models: list[object] = []
    size = 0
    while size < 1_000_000:
        models.append({"name": name(len(models)), "version": "v-1"})
        size += len(json.dumps(models[-1], ensure_ascii=False).encode()) + 2
    reason = reason_of(with_models(*models))
    assert "at most" in reason
    assert len(reason) < 500


def test_the_reason_lists_the_first_few_problems_of_many() -> None:
    reason = reason_of(with_models(*["m"] * 5_000))
    assert reason == (
        "spec.models[0] is a plain string: write {name: ..., version: ...}; "
        "spec.models[1] is a plain string: write {name: ..., version: ...}; "
        "spec.models[2] is a plain string: write {name: ..., version: ...}; and more"
    )


# --- EndpointSlices ------------------------------------------------------------------------------------------


def test_every_field_of_an_endpointslice_is_read() -> None:
    first, second = (parse_endpointslice(raw) for raw in raw_items_in("endpointslices-list"))
    assert first == EndpointSlice(
        key=ObjectKey("wire", "iiot-a1"),
        resource_version="232",
        service=ObjectKey("wire", "iiot"),
        address_type="IPv4",
        ports=(SlicePort("http", 8060),),
        endpoints=(
            SliceEndpoint("10.0.1.1", True, True, False, "z1", "n1", "iiot-0"),
            SliceEndpoint("10.0.1.2", True, True, False, "z1", "n1", "iiot-1"),
        ),
    )
    assert isinstance(second, EndpointSlice)


def test_a_terminating_endpoint_is_marked_as_terminating() -> None:
    parsed = parse_endpointslice(watched_in("endpointslices-watch")[0][1])
    assert isinstance(parsed, EndpointSlice)
    (endpoint,) = parsed.endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (False, True, True)


def slice_of(**fields: object) -> EndpointSlice:
    metadata = {"name": "s", "namespace": "n", "labels": {"kubernetes.io/service-name": "web"}}
    parsed = parse_endpointslice(written({"metadata": metadata, "addressType": "IPv4", **fields}))
    assert isinstance(parsed, EndpointSlice)
    return parsed


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        (None, True, True, False),
        ({}, True, True, False),
        ({"ready": None, "serving": None, "terminating": None}, True, True, False),
        ({"ready": False}, False, False, False),
        ({"ready": False, "serving": True}, False, True, False),
        ({"serving": False}, True, False, False),
        ({"ready": False, "terminating": True}, False, False, True),
    ],
)
def test_absent_conditions_mean_what_the_api_says(
    conditions: object, ready: bool, serving: bool, terminating: bool
) -> None:
    (endpoint,) = slice_of(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}]).endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (ready, serving, terminating)


def test_zone_node_pod_and_hints_are_read() -> None:
    written_endpoint = {
        "addresses": ["10.0.0.1"],
        "zone": "z1",
        "nodeName": "n1",
        "targetRef": {"kind": "Pod", "name": "web-0", "namespace": "n"},
        "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "n1"}]},
    }
    (endpoint,) = slice_of(endpoints=[written_endpoint]).endpoints
    assert (endpoint.zone, endpoint.node, endpoint.pod, endpoint.hints) == ("z1", "n1", "web-0", ("z1", "z2"))


@pytest.mark.parametrize("target", [None, {}, {"kind": "Node", "name": "n1"}, {"kind": "Pod", "name": None}])
def test_a_target_that_is_not_a_pod_gives_no_pod_name(target: object) -> None:
    (endpoint,) = slice_of(endpoints=[{"addresses": ["10.0.0.1"], "targetRef": target}]).endpoints
    assert endpoint.pod == ""


@pytest.mark.parametrize("hints", [None, {}, {"forZones": None}, {"forZones": []}])
def test_absent_hints_give_an_empty_tuple(hints: object) -> None:
    (endpoint,) = slice_of(endpoints=[{"addresses": ["10.0.0.1"], "hints": hints}]).endpoints
    assert endpoint.hints == ()


def test_null_endpoints_and_ports_count_as_absent() -> None:
    parsed = slice_of(endpoints=None, ports=None)
    assert (parsed.endpoints, parsed.ports) == ((), ())
    assert slice_of() == parsed


def test_a_port_without_a_number_is_ignored() -> None:
    parsed = slice_of(ports=[{"name": "any", "port": None}, {"name": None, "port": 80}, {"port": 81}])
    assert parsed.ports == (SlicePort("", 80), SlicePort("", 81))


def test_the_first_of_several_addresses_is_used() -> None:
    parsed = slice_of(endpoints=[{"addresses": ["10.0.0.1", "10.0.0.2"]}, {"addresses": []}, {"addresses": None}])
    assert [endpoint.address for endpoint in parsed.endpoints] == ["10.0.0.1"]


def test_ipv6_addresses_are_read() -> None:
    parsed = slice_of(addressType="IPv6", endpoints=[{"addresses": ["fd00::1"]}])
    assert (parsed.address_type, parsed.endpoints[0].address) == ("IPv6", "fd00::1")


@pytest.mark.parametrize(
    "manifest",
    [
        {"metadata": {"name": "s"}, "addressType": "IPv4"},
        {"metadata": {"name": "s", "labels": {}}, "addressType": "IPv4"},
        {"metadata": {"name": "s", "labels": {"kubernetes.io/service-name": ""}}, "addressType": "IPv4"},
        {"metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "FQDN"},
    ],
    ids=["no labels", "no such label", "empty label", "host names"],
)
def test_slices_without_a_service_or_of_host_names_are_ignored(manifest: dict[str, object]) -> None:
    assert parse_endpointslice(written(manifest)) is None
    assert parse_key(written(manifest)) == ObjectKey("default", "s")


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoints": [{"addresses": "10.0.0.1"}]},
        {"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": "yes"}}]},
        {"ports": [{"port": 70_000}]},
        {"ports": [{"port": "http"}]},
    ],
)
def test_a_slice_against_the_schema_is_an_error_that_names_the_field(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidObject, match=r"EndpointSlice n/s: .* - at `\$\."):
        slice_of(**fields)


def test_a_slice_with_an_invalid_service_name_is_an_error() -> None:
    metadata = {"name": "s", "labels": {"kubernetes.io/service-name": "a/b"}}
    with pytest.raises(InvalidObject, match="is not the name of a Service"):
        parse_endpointslice(written({"metadata": metadata, "addressType": "IPv4"}))


# --- the values ----------------------------------------------------------------------------------------------


def test_decoded_objects_are_not_tracked_by_the_garbage_collector() -> None:
    for value in (parse_appmodel(with_spec()), parse_appmodel(with_spec(app="")), slice_of(endpoints=[])):
        assert not gc.is_tracked(value)
        assert sys.getsizeof(value) < 100


def test_a_key_reads_as_kubernetes_writes_it_and_sorts_by_namespace_first() -> None:
    assert str(ObjectKey("n", "a")) == "n/a"
    assert ObjectKey("a", "z") < ObjectKey("b", "a")
