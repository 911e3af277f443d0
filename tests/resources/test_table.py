"""Declarations of tables, and how an object becomes a row."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jsonpath
import msgspec
import pytest

from shmroute.errors import ConfigError, InvalidObject
from shmroute.resources.field_selector import matches_fields, parse_field_selector
from shmroute.resources.table import parse_resource, watch_tables
from shmroute.resources.table_definition import DefinitionError, TableDefinition, TableLimits, TableRedis
from shmroute.resources.table_parser import InvalidTableObject, TableObject
from shmroute.rows import FIRST_TABLE_NUMBER, LAST_TABLE_NUMBER, index_value
from shmroute.watcher.tables_file import read_tables


def read(manifest: dict[str, Any], *, several: bool = False, **fields: Any) -> TableObject | InvalidTableObject:
    definition = TableDefinition(resource="tenants.v1.iidp.com", **fields)
    (kind,) = watch_tables({"tenants": definition}, several_namespaces=several)
    found = kind.parse(json.dumps(manifest).encode(), default_namespace="default")
    assert isinstance(found, TableObject | InvalidTableObject)
    return found


def row(manifest: dict[str, Any], **fields: Any) -> TableObject:
    found = read(manifest, **fields)
    assert isinstance(found, TableObject), found
    return found


def reason(manifest: dict[str, Any], **fields: Any) -> str:
    found = read(manifest, **fields)
    assert isinstance(found, InvalidTableObject), found
    return found.reason


def tenant(**spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": "acme",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "x"}],
    }
    metadata |= {"labels": {"app.kubernetes.io/name": "gateway"}}
    return {"apiVersion": "iidp.com/v1", "kind": "Tenant", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(
    ("resource", "parts"),
    [
        ("tenants.v1.iidp.com", ("iidp.com", "v1", "tenants")),
        ("configmaps.v1", ("", "v1", "configmaps")),
        ("widgets.v1alpha1.a.b.c", ("a.b.c", "v1alpha1", "widgets")),
    ],
)
def test_a_resource_is_given_in_kubectls_full_form(resource: str, parts: tuple[str, str, str]) -> None:
    assert parse_resource(resource) == parts


@pytest.mark.parametrize(
    "resource", ["deployments.apps", "tenants", "", "a.v1.", ".v1.x", "A.v1.x", "a.v0.x", "a.v1beta.x"]
)
def test_a_resource_without_a_version_is_refused_with_the_full_form(resource: str) -> None:
    with pytest.raises(DefinitionError, match=r"write PLURAL\.VERSION\.GROUP"):
        parse_resource(resource)


def test_values_of_json_reach_the_row_unchanged() -> None:
    spec: dict[str, Any] = {
        "int": 2**63 - 1,
        "negative": -(2**63),
        "float": 0.1,
        "whole": 1.0,
        "null": None,
        "list": [],
        "text": "ü\u0000",
        "binary": base64.b64encode(bytes(range(256))).decode(),
        "long": "x" * 1_500_000,
    }
    found = msgspec.msgpack.decode(row(tenant(**spec)).value)
    assert found["spec"] == spec
    assert type(found["spec"]["whole"]) is float
    assert "managedFields" not in found["metadata"]
    assert found["metadata"]["name"] == "acme"


def test_key_value_and_index_are_taken_from_their_paths() -> None:
    found = row(
        tenant(code="ACME", region="eu", tags=["a", "b", None, "a"], active=True, size=3),
        key=".spec.code",
        value=".spec",
        index={"region": "{.spec.region}", "tag": "spec.tags[*]", "active": ".spec.active", "no": ".spec.no"},
    )
    assert found.row_key == "ACME"
    assert msgspec.msgpack.decode(found.value)["region"] == "eu"
    assert found.index == ("region:seu", "tag:sa", "tag:sb", "active:b1")


def test_an_escaped_dot_is_part_of_a_name() -> None:
    path = r".metadata.labels.app\.kubernetes\.io/name"
    assert row(tenant(), key=path).row_key == "gateway"
    assert row(tenant(), key=".metadata.labels['app.kubernetes.io/name']").row_key == "gateway"


@pytest.mark.parametrize("path", [".a", ".a.b", ".a.b._c", ".a.length", ".not", ".a.not.b"])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"a": None},
        {"a": {"b": None, "not": {"b": False}}},
        {"a": {"b": {"_c": [1]}}},
        {"a": [{"b": 1}], "not": 2},
        {"a": "text"},
    ],
)
def test_path_of_plain_names_gives_what_the_library_gives(path: str, body: dict[str, Any]) -> None:
    expected = jsonpath.findall(f"${path}", body)
    manifest = {"metadata": {"name": "x"}, **body}
    if expected:
        assert [msgspec.msgpack.decode(row(manifest, value=path).value)] == expected
    else:
        assert f"no {path}" in reason(manifest, value=path)


def test_default_key_includes_the_namespace_if_there_are_several() -> None:
    assert row(tenant()).row_key == "acme"
    assert row(tenant(), several=True).row_key == "default/acme"
    assert row(tenant(), namespace="*").row_key == "default/acme"
    assert row(tenant(), several=True, namespace="one").row_key == "acme"


@pytest.mark.parametrize(
    ("spec", "fields", "words"),
    [
        ({}, {"key": ".spec.code"}, "key .spec.code gives nothing"),
        ({"code": 5}, {"key": ".spec.code"}, "gives a number: it must give a string"),
        ({"code": ""}, {"key": ".spec.code"}, "gives an empty string"),
        ({"code": "a\0"}, {"key": ".spec.code"}, "NUL"),
        ({"code": "x" * 65_536}, {"key": ".spec.code"}, "65536 bytes: at most 65535"),
        ({"code": ["a", "b"]}, {"key": ".spec.code[*]"}, "gives 2 values"),
        ({}, {"value": ".spec.no"}, "the object has no .spec.no, which is the value"),
        ({"n": 2**64}, {"value": ".spec"}, "the value cannot be stored"),
        ({"region": {"a": 1}}, {"index": {"r": ".spec.region"}}, "gives a map: only strings, numbers"),
        ({"region": "x" * 70_000}, {"index": {"r": ".spec.region"}}, "too long"),
    ],
)
def test_an_object_that_cannot_be_a_row_is_set_aside_with_the_reason(
    spec: dict[str, Any], fields: dict[str, Any], words: str
) -> None:
    assert words in reason(tenant(**spec), **fields)


def test_an_object_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidObject):
        read({"metadata": {}})


def test_index_values_of_different_types_differ() -> None:
    values = [1, True, "1", 1.5, "", 0, False, "b1"]
    assert len({index_value("i", value) for value in values}) == len(values)
    assert index_value("i", 1.0) == index_value("i", 1)
    assert index_value("i", None) is index_value("i", {}) is index_value("i", []) is None


FILE = """\
tables:
  tenants:
    resource: tenants.v1.iidp.com
    key: .spec.code
    index: {region: .spec.region}
  flags: configmaps.v1
"""


def test_tables_are_declared_by_file_and_options(tmp_path: Path) -> None:
    path = tmp_path / "tables.yaml"
    path.write_text(FILE)
    kinds = read_tables(str(path), ["nodes=nodes.v1"], several_namespaces=False)
    assert {kind.name: kind.definition for kind in kinds} == {
        "tenants": TableDefinition(resource="tenants.v1.iidp.com", key=".spec.code", index={"region": ".spec.region"}),
        "flags": TableDefinition(resource="configmaps.v1"),
        "nodes": TableDefinition(resource="nodes.v1"),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILE.replace("key:", "kye:"), "tables.yaml:4: table 'tenants': unknown field 'kye': did you mean 'key'?"),
        (FILE.replace(".spec.code", "5"), "tables.yaml:4: table 'tenants': key: Expected `str`, got `int`"),
        (FILE.replace("tables:", "table:"), "tables.yaml:1: unknown field 'table'"),
        (FILE + "  flags: secrets.v1\n", "flags"),
        ("", "write one map"),
        ("tables: []", "tables must be a map"),
        ("tables:\n  a:\n    key: x\n", "tables.yaml:2: table 'a': table: Object missing required field `resource`"),
        ("{", "tables.yaml"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "tables.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_tables(str(path), [], several_namespaces=False)
    assert words in str(refused.value)


@pytest.mark.parametrize("option", ["flags", "flags=", "=configmaps.v1"])
def test_a_simple_table_is_a_name_and_a_resource(option: str) -> None:
    with pytest.raises(ConfigError, match="write NAME=RESOURCE"):
        read_tables(None, [option], several_namespaces=False)


def test_two_tables_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is a table 'a' already"):
        read_tables(None, ["a=configmaps.v1", "a=nodes.v1"], several_namespaces=False)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("models", {}, "belongs to shmroute"),
        ("endpointslices", {}, "belongs to shmroute"),
        ("Big", {}, "write a name of lower-case letters"),
        ("a", {"key": ".spec["}, "is not a JSONPath"),
        ("a", {"key": ".spec..", "value": "."}, "is not a JSONPath"),
        ("a", {"index": {"r": ""}}, "index r: the path is empty"),
        ("a", {"index": {"a:b": ".x"}}, "index 'a:b'"),
        ("a", {"resource": "secrets.v1"}, "secrets: allowed"),
        ("a", {"namespace": ["x", "*"]}, "* stands for all namespaces"),
        ("a", {"namespace": []}, "an empty list"),
        ("a", {"namespace": "x,y"}, "several as a list"),
        ("a", {"namespace": "x", "scope": "Cluster"}, "leave the field out"),
        ("a", {"limits": TableLimits()}, "write objects, bytes or both"),
        (
            "a",
            {"redis": TableRedis(key="{app}", version=".x")},
            "in braces write {key}, {name}, {namespace}, {version}",
        ),
        ("a", {"redis": TableRedis(key="plan", version=".x")}, "all rows would share one value"),
        ("a", {"redis": TableRedis(key="{key", version=".x")}, "redis.key '{key'"),
        ("a", {"redis": TableRedis(key="{.a..}", version=".x")}, "is not a JSONPath"),
        ("a", {"redis": TableRedis(key="{key}", version="")}, "redis.version: the path is empty"),
        ("a", {"field_selector": "metadata.name"}, "neither FIELD=VALUE nor FIELD!=VALUE"),
        ("a", {"field_selector": "name=x"}, "write its full path"),
        ("a", {"field_selector": "metadata.labels.app=x"}, "labels are for `selector`"),
    ],
)
def test_a_bad_definition_is_refused(name: str, fields: dict[str, Any], words: str) -> None:
    definition = TableDefinition(**{"resource": "tenants.v1.iidp.com", **fields})
    with pytest.raises(ConfigError) as refused:
        watch_tables({name: definition}, several_namespaces=False)
    assert words in str(refused.value)


def test_every_mistake_of_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "tables.yaml"
    path.write_text(
        """\
tables:
  a: {resource: nodes}
  b:
    resource: plans.v1.iidp.com
    redis:
      key: plan
      version: .spec.version
  c:
    resource: plans.v1.iidp.com
    index:
      one: .spec.one
      two: .spec[
"""
    )
    with pytest.raises(ConfigError) as refused:
        read_tables(str(path), ["d=x"], several_namespaces=False)
    lines = str(refused.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{path}:2", f"{path}:6", f"{path}:12", "--table"]
    path.write_text("tables:\n  a:\n    resource: x.v1\n    limits:\n      objcts: 5\n")
    with pytest.raises(ConfigError, match=r"tables.yaml:5: table 'a': unknown field 'limits.objcts': did you mean"):
        read_tables(str(path), [], several_namespaces=False)


def test_unchanged_tables_keep_their_number_and_no_other_gets_it() -> None:
    one, other = TableDefinition(resource="nodes.v1"), TableDefinition(resource="pods.v1")
    before = watch_tables({"a": one, "b": one}, several_namespaces=False)
    after = watch_tables({"a": other, "b": one, "c": other}, several_namespaces=False, current=before)
    assert after[1] is before[1]
    assert len({kind.feeds for kind in (*before, *after)}) == 4
    assert watch_tables({"a": one, "b": one}, several_namespaces=False, current=before) == before


def test_metadata_key_may_contain_names_and_paths() -> None:
    manifest = tenant(app="x", count=3, ratio=0.5, version="v2", none=None)
    redis = TableRedis(key="{{{.spec.app}}}:{namespace}/{name}_{key}@{.spec.count}", version=".spec.version")
    assert row(manifest, redis=redis, key=".spec.app").metadata == ("{x}:default/acme_x@3", "v2")
    assert row(manifest, redis=TableRedis(key="{key}@{version}", version=".spec.ratio")).metadata == ("acme@0.5", "0.5")
    for version, words in ((".spec.none", "gives null"), (".spec.nothing", "gives nothing"), (".spec", "gives a map")):
        assert words in reason(manifest, redis=TableRedis(key="{key}", version=version))


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("", True),
        ("metadata.name=acme", True),
        ("metadata.name==acme,spec.quota!=4", True),
        ("spec.quota=3", True),  # numbers compare as text
        ("spec.on=true", True),
        ("spec.absent=", True),  # an absent field equals the empty text
        ("spec.absent!=x", True),
        ("spec.text=a\\,b", True),
        ("metadata.name=acme,spec.quota=4", False),
        ("metadata.name!=acme", False),
    ],
)
def test_a_field_selector_compares_as_an_api_server_does(selector: str, selected: bool) -> None:
    manifest = tenant(quota=3, on=True, text="a,b")
    assert matches_fields(parse_field_selector(selector), manifest) is selected


def test_secrets_are_read_if_the_table_allows_it() -> None:
    definition = TableDefinition(resource="secrets.v1", secrets="allowed")
    (kind,) = watch_tables({"keys": definition}, several_namespaces=False)
    assert kind.full_name == "secrets"


def test_redefined_table_gets_a_new_number_and_restored_one_its_old() -> None:
    one, other = TableDefinition(resource="nodes.v1"), TableDefinition(resource="nodes.v1", key=".metadata.uid")
    ((a,), (b,), (c,)) = (watch_tables({"n": each}, several_namespaces=False) for each in (one, other, one))
    assert a.feeds == c.feeds != b.feeds
    many = watch_tables({f"t{number}": one for number in range(2_000)}, several_namespaces=False)
    assert len({kind.feeds for kind in many}) == 2_000
    used = [number for kind in many for number in kind.row_kinds]
    assert len(set(used)) == 3 * len(many)
    assert all(FIRST_TABLE_NUMBER <= number <= LAST_TABLE_NUMBER for number in used)
