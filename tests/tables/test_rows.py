"""Every field of an AppModel that a row shows changes the row, and a `Route` has the fields of its row."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shmroute.resources.appmodel import AppModel, ModelVersion
from shmroute.resources.key import ObjectKey
from shmroute.rows import Kind, RouteRow
from shmroute.tables.models import app_row, route_row
from shmroute.worker.routes import Route
from tests.tables.builders import Followed

BEFORE = AppModel(
    key=ObjectKey("default", "a"),
    created="2026-01-01T00:00:00Z",
    resource_version="1",
    app="app",
    version="v1",
    models=(ModelVersion("m", "1"),),
    service=ObjectKey("default", "a"),
    port="http",
)
CHANGES: dict[str, Any] = {
    "key": ObjectKey("east", "b"),
    "created": "2026-01-02T00:00:00Z",
    "app": "other",
    "version": "v2",
    "models": (ModelVersion("m", "2"),),
    "service": ObjectKey("default", "b"),
    "port": "grpc",
    "first_seen": "2026-01-03T00:00:00Z",
    "deleting": "2026-01-04T00:00:00Z",
}
"""Another value of each field; the resourceVersion alone is in no row."""

IN_ROUTE = {"key", "app", "version"}
IN_APP = {"key", "created", "app", "version", "models", "service", "port", "first_seen", "deleting"}


def test_the_test_covers_every_field_of_an_appmodel() -> None:
    assert {*CHANGES, "resource_version"} == set(AppModel.__struct_fields__)


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_field_changes_the_rows_that_show_it(field: str) -> None:
    after = msgspec.structs.replace(BEFORE, **{field: CHANGES[field]})
    assert (route_row("m", "1", BEFORE) != route_row("m", "1", after)) == (field in IN_ROUTE)
    assert (app_row(BEFORE) != app_row(after)) == (field in IN_APP)


@pytest.mark.parametrize("field", [field for field in CHANGES if field != "key"])
def test_a_changed_field_is_announced(field: str) -> None:
    followed = Followed()
    followed.put(BEFORE)
    followed.take()
    after = msgspec.structs.replace(BEFORE, **{field: CHANGES[field]}, resource_version="2")
    followed.put(after)
    kinds = {kind for kind, _ in followed.take()}
    assert Kind.APP in kinds
    assert (Kind.MODEL in kinds) == (field in {*IN_ROUTE, "models"})


def test_a_new_resource_version_alone_is_not_announced() -> None:
    followed = Followed()
    followed.put(BEFORE)
    followed.take()
    assert followed.put(msgspec.structs.replace(BEFORE, resource_version="2")) == []
    assert followed.take() == {}


def test_a_route_has_the_fields_of_its_row() -> None:
    public = [name for name in Route.__struct_fields__ if not name.startswith("_")]
    assert public == list(RouteRow.__struct_fields__)
    assert Route.__struct_fields__[: len(public)] == tuple(public), "private fields come last"
    assert RouteRow.__struct_config__.array_like
