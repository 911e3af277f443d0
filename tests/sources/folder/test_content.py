"""Objects from one file's bytes: those that are used, those left out, and errors that reject the file."""

from __future__ import annotations

from typing import Any

import pytest

from shmroute.errors import InvalidObject
from shmroute.resources.appmodel import AppModel, InvalidAppModel
from shmroute.resources.endpointslice import EndpointSlice
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS, BUILT_IN, WatchedKind
from shmroute.resources.table import watch_tables
from shmroute.resources.table_definition import TableDefinition
from shmroute.resources.table_parser import TableObject
from shmroute.rows import encode
from shmroute.sources.folder.content import Content, Scope, read_content
from tests.sources.folder.manifests import appmodel, endpointslice, text


def read(
    *manifests: dict[str, Any],
    namespace: str | None = None,
    selector: str = "",
    kinds: tuple[WatchedKind, ...] = BUILT_IN,
) -> Content:
    return read_content(text(*manifests).encode(), "f.yaml", Scope.of(kinds, namespace, selector))


def names(content: Content) -> list[str]:
    return [str(key) for _, key in content.objects]


def test_appmodels_and_slices_of_one_file_are_both_read() -> None:
    content = read(appmodel("a"), endpointslice("a-1", "a", "10.0.0.1"))
    appmodel_, slice_ = content.objects.values()
    assert isinstance(appmodel_, AppModel)
    assert isinstance(slice_, EndpointSlice)
    assert slice_.service == appmodel_.service
    assert content.notes == ()


def test_other_kinds_are_ignored() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
    assert read(service, appmodel("a"), {"kind": "Kustomization"}) == read(appmodel("a"))


def test_invalid_appmodel_is_reported_and_the_others_are_read() -> None:
    broken = appmodel("a")
    del broken["spec"]["app"]
    invalid, valid = read(broken, appmodel("b")).objects.values()
    assert isinstance(invalid, InvalidAppModel)
    assert "spec.app is missing" in invalid.reason
    assert isinstance(valid, AppModel)


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({"apiVersion": "iidp.com/v1", "kind": "AppModel", "spec": {}}, "document 2: object without a usable name"),
        (appmodel("b") | {"apiVersion": "iidp.com/v2"}, "apiVersion of AppModel is iidp.com/v2: write iidp.com/v1"),
        ({"kind": "AppModel", "metadata": {"name": "b"}}, "apiVersion of AppModel is missing: write iidp.com/v1"),
        (appmodel("b") | {"kind": "Appmodel"}, "kind is Appmodel: write AppModel"),
        (appmodel("b") | {"kind": "AppModels"}, "kind is AppModels: write AppModel"),
        (endpointslice("b", "b") | {"ports": "8060"}, "document 2: EndpointSlice default/b: Expected `array"),
    ],
)
def test_an_undecodable_object_spoils_the_whole_file(manifest: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidObject, match=reason):
        read(appmodel("a"), manifest)


TABLES = watch_tables(
    {
        "stable": TableDefinition(resource="widgets.v1.example.com", value=".apiVersion"),
        "older": TableDefinition(resource="widgets.v1beta1.example.com", value=".apiVersion"),
        "flags": TableDefinition(resource="configmaps.v1"),
    },
    several_namespaces=False,
)


def widget(api_version: str, name: str) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": "Widget", "metadata": {"name": name}}


def test_a_table_shows_all_objects_in_its_own_version() -> None:
    content = read(widget("example.com/v1", "a"), widget("example.com/v1beta1", "b"), kinds=TABLES)
    rows = {
        (table, item.row_key): bytes(item.value)
        for (table, _), item in content.objects.items()
        if isinstance(item, TableObject)
    }
    shown = {"stable": encode("example.com/v1"), "older": encode("example.com/v1beta1")}
    assert rows == {(table, name): value for table, value in shown.items() for name in "ab"}


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (widget("v1", "a") | {"kind": "ConfigMap", "apiVersion": "v2"}, "apiVersion of ConfigMap is v2: write v1"),
        ({"kind": "Widget", "metadata": {"name": "a"}}, "apiVersion of Widget is missing: write example.com/v1"),
    ],
)
def test_a_table_sets_aside_inconvertible_objects(manifest: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidObject, match=reason):
        read(manifest, kinds=TABLES)


def test_unusable_slices_are_reported_and_the_rest_is_read() -> None:
    unlabelled = endpointslice("a-1", "a") | {"metadata": {"name": "a-1"}}
    named = endpointslice("a-2", "a", "host.example") | {"addressType": "FQDN"}
    content = read(unlabelled, named, appmodel("a"), appmodel("a", version="v2"))
    assert names(content) == ["default/a"]
    assert content.notes == (
        "document 1: EndpointSlice a-1 has no label kubernetes.io/service-name",
        "document 2: EndpointSlice a-2 has the addressType FQDN: only IPv4 and IPv6 can be dialled",
        "document 4: AppModel default/a is already in document 3",
    )
    (taken,) = content.objects.values()
    assert isinstance(taken, AppModel)
    assert taken.version == "v1"


def test_objects_without_a_namespace_get_that_of_the_source() -> None:
    assert names(read(appmodel("a"), appmodel("b", namespace="own"))) == ["default/a", "own/b"]
    assert names(read(appmodel("a"), appmodel("b", namespace="own"), namespace="own")) == ["own/a", "own/b"]


def test_objects_of_other_namespaces_are_ignored() -> None:
    assert names(read(appmodel("a", namespace="other"), endpointslice("s", "a"), namespace="own")) == ["own/s"]


def test_a_selector_applies_to_appmodels_only() -> None:
    labelled = appmodel("b", labels={"iidp": "iidp"})
    odd = appmodel("c", labels=["iidp"])
    slice_ = endpointslice("s", "a")
    assert names(read(appmodel("a"), labelled, odd, slice_)) == ["default/a", "default/b", "default/c", "default/s"]
    assert names(read(appmodel("a"), labelled, odd, slice_, selector="iidp=iidp")) == ["default/b", "default/s"]


def test_kinds_that_are_not_watched_are_ignored() -> None:
    unreadable = endpointslice("s", "a") | {"ports": "8060"}
    assert names(read(appmodel("a"), unreadable, kinds=(APPMODELS,))) == ["default/a"]


def test_an_objects_version_depends_on_its_content_only() -> None:
    exported = appmodel("a", resourceVersion="7")
    edited = appmodel("a", resourceVersion="7", version="v2")
    versions = [
        next(iter(content.objects.values())).resource_version
        for content in (read(exported), read(appmodel("b"), exported, appmodel("c")), read(edited))
    ]
    first, among_others, after_edit = versions[0], read(appmodel("b"), exported), versions[2]
    assert among_others.objects["appmodels", ObjectKey("default", "a")].resource_version == first
    assert after_edit != first
