"""Declared tables from a folder, with a real watcher process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shmroute import NotReady, Reader
from tests.e2e.running import WAIT_SECONDS, appmodel, shmroute, until
from tests.processes import bound
from tests.watcher.test_kinds import widget

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


def test_a_folder_feeds_a_table(area: str, tmp_path: Path) -> None:
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
        put(widget("bad", code="second", tags=["x"]) | {"apiVersion": "example.com/v1beta1"})
        until(lambda: widgets.keys_by("tag", "x") == ("first", "second"), "second row")
        (folder / "one.json").unlink()
        until(lambda: "first" not in widgets, "removal")
        assert dict(widgets) == {"second": Widget("second", 0, ["x"])}


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

        (table,) = get("tables", "widgets")
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
        (("--table", "d"), "write NAME=RESOURCE"),
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
