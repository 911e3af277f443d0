"""All problems of a manifest are found before it is sent, and named in plain words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shmroute.resources.appmodel import InvalidAppModel, find_problems, parse_appmodel
from tests.apiserver.recordings import recording
from tests.generate import appmodels, body, manifest

GOOD: dict[str, Any] = {
    "apiVersion": "iidp.com/v1",
    "kind": "AppModel",
    "metadata": {"name": "newsdkapp", "namespace": "meta-test", "labels": {"iidp": "iidp"}},
    "spec": {"app": "newSdkApp", "version": "v-1", "models": [{"name": "model1", "version": "v-1"}]},
}


def with_spec(**spec: object) -> dict[str, Any]:
    return {**GOOD, "spec": {**GOOD["spec"], **spec}}


def with_metadata(**metadata: object) -> dict[str, Any]:
    return {**GOOD, "metadata": {**GOOD["metadata"], **metadata}}


def without(field: str) -> dict[str, Any]:
    return {**GOOD, "spec": {key: value for key, value in GOOD["spec"].items() if key != field}}


def test_a_good_manifest_has_no_problems() -> None:
    assert find_problems(GOOD) == []
    assert find_problems(with_metadata(annotations={"iidp.com/service": "web", "iidp.com/port": "80"})) == []


def test_generated_objects_have_no_problems_in_any_form() -> None:
    for item in appmodels(20, 5):
        assert find_problems(manifest(item)) == []
        assert find_problems(body(item)) == []


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ({**GOOD, "spec": None}, "spec is missing"),
        ({**GOOD, "spec": []}, "spec is a list: write a map of app, version and models"),
        (without("app"), "spec.app is missing"),
        (without("version"), "spec.version is missing"),
        (without("models"), "spec.models is missing"),
        (with_spec(app=""), "spec.app is empty"),
        (with_spec(app=["x"]), "spec.app is a list: write a string"),
        (with_spec(app=True), "spec.app is true or false: write a string"),
        (with_spec(app="a\0b"), "spec.app holds a NUL character"),
        (with_spec(version=1.7), 'spec.version is a number: write "1.7", in quotes'),
        (with_spec(version=2), 'spec.version is a number: write "2", in quotes'),
        (with_spec(models=[]), "spec.models is empty: an AppModel names at least one model"),
        (with_spec(models="m"), "spec.models is a plain string: write a list of {name: ..., version: ...}"),
        (with_spec(models={"m": "1"}), "spec.models is a map: write a list of {name: ..., version: ...}"),
        (with_spec(models=["m"]), "spec.models[0] is a plain string: write {name: ..., version: ...}"),
        (with_spec(models=[None]), "spec.models[0] is empty: write {name: ..., version: ...}"),
        (with_spec(models=[{"version": "1"}]), "spec.models[0].name is missing"),
        (with_spec(models=[{"name": "m"}]), "spec.models[0].version is missing"),
        (with_spec(models=[{"name": "", "version": "1"}]), "spec.models[0].name is empty"),
        (with_spec(models=[{"name": "m", "version": ""}]), "spec.models[0].version is empty"),
        (with_spec(models=[{"name": "m\0", "version": "1"}]), "spec.models[0].name holds a NUL character"),
        (with_spec(models=[{"name": "m", "version": "1"}] * 3), "model name 'm' twice"),
    ],
)
def test_reason_to_set_aside_is_the_same_before_applying(manifest: dict[str, Any], problem: str) -> None:
    assert find_problems(manifest) == [problem]
    assert find_problems(msgspec.json.encode(manifest)) == [problem]
    parsed = parse_appmodel(msgspec.json.encode(manifest))
    assert isinstance(parsed, InvalidAppModel)
    assert parsed.reason == problem


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ({**GOOD, "apiVersion": "v1"}, "apiVersion is 'v1': write iidp.com/v1"),
        ({**GOOD, "kind": None}, "kind is missing: write AppModel"),
        (
            {**GOOD, "status": {}},
            "status is not a field of an AppModel: its fields are apiVersion, kind, metadata, spec",
        ),
        (with_spec(type="model"), "spec.type is not a field of an AppModel: its fields are app, version, models"),
        (
            with_spec(models=[{"name": "m", "version": "1", "path": "x"}]),
            "spec.models[0].path is not a field of an AppModel: its fields are name, version",
        ),
        (
            with_metadata(name="newSdkApp"),
            "metadata.name is 'newSdkApp': write lower-case letters, digits, '-' and '.' (RFC 1123)",
        ),
        (
            with_metadata(namespace="meta.test"),
            "metadata.namespace is 'meta.test': write lower-case letters, digits and '-' (RFC 1123)",
        ),
        (with_metadata(labels=[]), "metadata.labels is a list: write a map of strings"),
        (with_metadata(labels={"x": 1}), "metadata.labels['x'] is a number: write a string, in quotes"),
    ],
)
def test_rules_of_the_api_server_are_checked_before_applying(manifest: dict[str, Any], problem: str) -> None:
    assert find_problems(manifest) == [problem]
    if "newSdkApp" not in problem:
        assert not isinstance(parse_appmodel(msgspec.json.encode(manifest)), InvalidAppModel)


def test_all_problems_are_reported_at_once() -> None:
    assert find_problems({"kind": "AppModel", "metadata": {}, "spec": {"models": ["m"], "type": "x"}}) == [
        "apiVersion is missing: write iidp.com/v1",
        "metadata.name is missing",
        "spec.app is missing",
        "spec.version is missing",
        "spec.models[0] is a plain string: write {name: ..., version: ...}",
        "spec.type is not a field of an AppModel: its fields are app, version, models",
    ]


def test_the_platforms_own_example_is_refused_with_the_right_form() -> None:
    sent = recording("apply-seed-example-rejected").request.partition(b"\r\n\r\n")[2]
    assert find_problems(sent) == [
        "spec.app is missing",
        *(f"spec.models[{index}] is a plain string: write {{name: ..., version: ...}}" for index in range(3)),
        "spec.type is not a field of an AppModel: its fields are app, version, models",
    ]


def test_at_most_a_hundred_mistakes_are_reported() -> None:
    assert len(find_problems(with_spec(models=["m"] * 10_000))) == 100


@pytest.mark.parametrize(
    "metadata", [None, [], "x", {"name": 5}, {"name": "a", "annotations": 5}, {"name": "a", "annotations": {"x": 5}}]
)
def test_object_metadata_of_any_form_gives_a_readable_problem(metadata: object) -> None:
    (problem,) = find_problems({**GOOD, "metadata": metadata})
    assert problem.startswith("metadata")


def test_invalid_json_is_a_problem_not_an_exception() -> None:
    assert find_problems(b"{") == ["the manifest is not JSON: Input data was truncated"]
    assert find_problems(b'"x"') == ["the manifest is a plain string: write a map"]
    assert len(find_problems(b'{"x":"\xff"}')) == 1


def test_long_values_are_cut_in_messages() -> None:
    for problem in find_problems(with_metadata(name="X" * 253, annotations={"iidp.com/service": "y" * 9_999})):
        assert len(problem) < 250
