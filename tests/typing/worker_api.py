"""The types that a user's editor and type checker see of the worker's side. Checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import Any, assert_type

import msgspec

import shmroute
from shmroute import App, Endpoint, Reader, Route, Snapshot, Table, resolve, snapshot, table
from shmroute.worker.table_changes import TableChange, TableReset
from shmroute.worker.table_view import TableView


class Tenant(msgspec.Struct):
    quota: int
    region: str


def routes(reader: Reader) -> None:
    route = resolve("model", max_age=3.0)
    assert_type(route, Route)
    assert_type(route.app, str)
    assert_type(route.version, str)
    assert_type(route.endpoints, tuple[Endpoint, ...])
    assert_type(route.pick(), Endpoint)
    assert_type(route.pick().port, int)
    assert_type(route.metadata_version, str | None)
    assert_type(route.others, tuple[Route, ...])
    assert_type(reader.resolve("model"), Route)
    assert_type(shmroute.get("model"), Route | None)
    assert_type(reader.app("iiot"), App)
    assert_type(reader.app("iiot").models, tuple[tuple[str, str], ...])


def tables() -> None:
    tenants = table("tenants", Tenant)
    assert_type(tenants, Table[Tenant])
    assert_type(tenants["acme"], Tenant)
    assert_type(tenants["acme"].quota, int)
    assert_type(tenants.get("acme"), Tenant | None)
    assert_type(tenants.get("acme", 7), Tenant | int)
    assert_type(tenants.by("region", "eu"), tuple[Tenant, ...])
    assert_type(tenants.keys_by("region", "eu"), tuple[str, ...])
    assert_type(list(tenants), list[str])
    assert_type(dict(tenants), dict[str, Tenant])
    assert_type(tenants.age, float)
    assert_type(table("flags"), Table[Any])
    for change in tenants.changes():
        assert_type(change, TableChange[Tenant] | TableReset[Tenant])
    tenants["acme"] = Tenant(1, "eu")  # type: ignore[index]


def built_in_tables(now: Snapshot) -> None:
    assert_type(table("models"), Table[Route])
    assert_type(table("apps"), Table[App])
    assert_type(table("endpoints"), Table[tuple[Endpoint, ...]])
    assert_type(table("models", Route), Table[Route])
    assert_type(table("models")["model"].app, str)
    assert_type(table("endpoints").get("ns/app"), tuple[Endpoint, ...] | None)
    assert_type(now.table("models"), TableView[Route])
    assert_type(now.table("endpoints")["ns/app"], tuple[Endpoint, ...])
    for change in table("apps").changes():
        assert_type(change, TableChange[App] | TableReset[App])


def snapshots(now: Snapshot) -> None:
    assert_type(snapshot(), Snapshot)
    assert_type(now.resolve("model"), Route)
    assert_type(now.get("model"), Route | None)
    assert_type(now.models(), dict[str, Route])
    assert_type(now.table("tenants", Tenant), TableView[Tenant])
    assert_type(now.table("tenants", Tenant)["acme"], Tenant)
    assert_type(now.generation, int)
    assert_type(now.age, float)
