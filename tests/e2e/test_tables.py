"""Declared tables from a folder and from the API server, with a real watcher process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kubernetes import client, config

from shmroute import NotReady, Reader
from shmroute.shm.control import ControlReader
from shmroute.watcher.status import decode_status
from tests.apiserver import ApiServer
from tests.e2e.running import WAIT_SECONDS, appmodel, shmroute, until
from tests.processes import bound
from tests.watcher.test_kinds import DEFINITION, widget

TABLES = """\
tables:
  widgets:
    resource: widgets.v1.example.com
    key: .spec.code
    value: .spec
    index: {tag: ".spec.tags[*]"}
"""


class Widget(msgspec.Struct):
    code: str
    size: int = 0
    tags: list[str] = []


@contextlib.contextmanager
def watching(area: str, tmp_path: Path, *options: str) -> Iterator[None]:
    (tmp_path / "tables.yaml").write_text(TABLES)
    command = [sys.executable, "-m", "shmroute", "watch", "--area", area, "--tables", str(tmp_path / "tables.yaml")]
    process = subprocess.Popen(bound([*command, *options]))
    try:
        yield
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def follow(area: str) -> Any:
    reader = Reader(area)
    reader.wait_ready(WAIT_SECONDS)
    return reader.table("widgets", Widget)


def test_a_folder_gives_a_table(area: str, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()

    def put(manifest: dict[str, Any]) -> None:
        (folder / f"{manifest['metadata']['name']}.json").write_text(json.dumps(manifest))

    put(appmodel("a", "appA", "v1", {"m": "1"}))
    put(widget("one", code="first", size=3, tags=["x", "y"]))
    put(widget("bad", size=3))
    with watching(area, tmp_path, "--manifests", str(folder)):
        widgets = follow(area)
        assert widgets["first"] == Widget("first", 3, ["x", "y"])
        assert widgets.keys_by("tag", "x") == ("first",)
        until(lambda: widgets.age < 60, "age")
        put(widget("bad", code="second", tags=["x"]))
        until(lambda: widgets.keys_by("tag", "x") == ("first", "second"), "second row")
        (folder / "one.json").unlink()
        until(lambda: "first" not in widgets, "removal")
        assert dict(widgets) == {"second": Widget("second", 0, ["x"])}


@contextlib.contextmanager
def serving(tmp_path: Path) -> Iterator[tuple[Path, client.ApiextensionsV1Api, client.CustomObjectsApi]]:
    kubeconfig = tmp_path / "kubeconfig"
    with ApiServer() as server:
        server.kubeconfig(kubeconfig)
        with config.new_client_from_config(str(kubeconfig)) as api:  # type: ignore[no-untyped-call]
            yield kubeconfig, client.ApiextensionsV1Api(api), client.CustomObjectsApi(api)


def create(objects: client.CustomObjectsApi, manifest: dict[str, Any]) -> bool:
    try:
        objects.create_cluster_custom_object("example.com", "v1", "widgets", manifest)
    except client.ApiException as error:
        if error.status != 404:
            raise
        return False  # a new definition is served a moment later
    return True


def test_a_definition_installed_late_makes_only_its_table_wait(area: str, tmp_path: Path) -> None:
    with serving(tmp_path) as (kubeconfig, definitions, objects):
        where = ("--kubeconfig", str(kubeconfig), "-n", "default")
        with watching(area, tmp_path, *where):
            started = time.monotonic()
            widgets = follow(area)
            assert time.monotonic() - started < WAIT_SECONDS
            assert not widgets.ready
            with pytest.raises(NotReady):
                widgets["first"]

            def status() -> Any:
                payload = ControlReader(area).status()
                return decode_status(payload) if payload else None

            until(lambda: status() and any(source.reason for source in status().sources[2:]), "reason of the table")
            until(lambda: status().age < WAIT_SECONDS, "age of routes, which a waiting table does not change")
            definitions.create_custom_resource_definition(DEFINITION)  # type: ignore[arg-type]
            until(lambda: create(objects, widget("one", code="first", size=3)), "definition")
            widgets.wait_ready(WAIT_SECONDS)
            until(lambda: widgets.get("first") == Widget("first", 3), "row")
            create(objects, widget("two", code="second", tags=["x"]))
            until(lambda: widgets.keys_by("tag", "x") == ("second",), "index")
            objects.delete_cluster_custom_object("example.com", "v1", "widgets", "one")
            until(lambda: "first" not in widgets, "deletion")


def waiting(area: str) -> str:
    """What the table's source waits for, as the watcher says."""
    payload = ControlReader(area).status()
    status = decode_status(payload) if payload else None
    return "".join(state.reason for state in status.sources if state.resource == "widgets") if status else ""


def test_a_restarted_watcher_keeps_the_last_rows_until_its_own_list(area: str, tmp_path: Path) -> None:
    with serving(tmp_path) as (kubeconfig, definitions, objects):
        definitions.create_custom_resource_definition(DEFINITION)  # type: ignore[arg-type]
        until(lambda: create(objects, widget("one", code="first", size=3)), "definition")
        where = ("--kubeconfig", str(kubeconfig), "-n", "default")
        with watching(area, tmp_path, *where):
            widgets = follow(area)
            widgets.wait_ready(WAIT_SECONDS)
            assert widgets["first"].size == 3
            until(lambda: widgets.age < 60, "age")
        definitions.delete_custom_resource_definition("widgets.example.com")
        with watching(area, tmp_path, *where):
            until(lambda: "definition installed?" in waiting(area), "status of the new watcher")
            assert widgets.age < 60, "since the watcher before it was in step"
            assert widgets["first"].size == 3, "what was known is served while the resource is away"

            definitions.create_custom_resource_definition(DEFINITION)  # type: ignore[arg-type]
            until(lambda: create(objects, widget("two", code="second")), "definition again")
            deadline = time.monotonic() + 2 * WAIT_SECONDS  # a missing definition is looked for every 10 to 20 s
            while dict(widgets) != {"second": Widget("second")}:
                assert time.monotonic() < deadline, dict(widgets)
                time.sleep(0.05)


def test_get_shows_tables_and_their_rows(area: str, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps(widget("one", code="first", size=3, tags=["x", "y"])))
    (folder / "two.json").write_text(json.dumps(widget("two", code="second", tags=["7"])))
    (folder / "bad.json").write_text(json.dumps(widget("bad")))
    (folder / "again.json").write_text(json.dumps(widget("zz", code="first")))
    with watching(area, tmp_path, "--manifests", str(folder)):
        follow(area)

        def get(*arguments: str) -> Any:
            return json.loads(shmroute("get", *arguments, "--area", area, "-o", "json").stdout)["items"]

        (table,) = get("tables")
        assert (table["table"], table["ready"], table["rows"], table["indexes"]) == ("widgets", "yes", 2, ["tag"])
        assert (table["invalid"], table["conflicts"]) == (1, 1)
        assert [row["key"] for row in get("widgets")] == ["first", "second"]
        assert get("widgets", "first")[0]["value"]["size"] == 3
        assert [row["key"] for row in get("widgets", "--by", "tag=x")] == ["first"]
        assert [row["key"] for row in get("widgets", "--by", "tag=7")] == ["second"]
        (conflict,) = get("conflicts")
        assert (conflict["table"], conflict["model"], conflict["losers"]) == ("widgets", "first", ["default/zz"])
        assert shmroute("get", "widgets", "nothing", "--area", area, check=False).returncode == 5
        wrong = shmroute("get", "gadgets", "--area", area, check=False)
        assert wrong.returncode == 2
        assert "neither a table of this area nor one of models" in wrong.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--table", "keys=secrets.v1"), "secrets: allowed"),
        (("--table", "d=deployments.apps"), "write PLURAL.VERSION.GROUP"),
        (("--tables", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
    ],
)
def test_a_bad_table_ends_the_command_before_anything_is_served(
    area: str, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    ended = shmroute("watch", "--area", area, "--manifests", str(tmp_path), *options, check=False)
    assert ended.returncode == 2
    assert words in ended.stderr
    with pytest.raises(NotReady):
        Reader(area).attach()


def test_a_definition_that_is_deleted_leaves_the_last_rows_until_it_is_back(area: str, tmp_path: Path) -> None:
    """An API server deletes every object, one by one, before the definition itself goes."""
    with serving(tmp_path) as (kubeconfig, definitions, objects):
        definitions.create_custom_resource_definition(DEFINITION)  # type: ignore[arg-type]
        until(lambda: create(objects, widget("one", code="first", size=3)), "definition")
        create(objects, widget("two", code="second"))
        with watching(area, tmp_path, "--kubeconfig", str(kubeconfig), "-n", "default"):
            widgets = follow(area)
            widgets.wait_ready(WAIT_SECONDS)
            until(lambda: len(widgets) == 2, "rows")
            objects.delete_cluster_custom_object("example.com", "v1", "widgets", "two")
            until(lambda: "second" not in widgets, "deletion by a user")

            definitions.delete_custom_resource_definition("widgets.example.com")
            until(lambda: "the last state is served" in waiting(area), "reason")
            aged = widgets.age
            until(lambda: widgets.age > aged + 1.0, "growing age")
            assert dict(widgets) == {"first": Widget("first", 3)}, "the last known good"

            definitions.create_custom_resource_definition(DEFINITION)  # type: ignore[arg-type]
            until(lambda: create(objects, widget("three", code="third")), "definition again")
            deadline = time.monotonic() + 2 * WAIT_SECONDS
            while dict(widgets) != {"third": Widget("third")}:
                assert time.monotonic() < deadline, dict(widgets)
                time.sleep(0.05)
            until(lambda: widgets.age < aged + 1.0, "age of a table in step")
