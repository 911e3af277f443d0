"""The tables file changes under a running watcher: tables are added, removed and redefined; others are not touched."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shmroute import ConfigError, Reader, TableNotFound
from shmroute.rows import InvalidRow, Kind
from shmroute.shm.reader import RowReader
from shmroute.supervise.cleanup import remove_area
from shmroute.tables import TableItem
from shmroute.watcher import Watcher, WatchOptions
from shmroute.watcher.metrics import WatcherCollector
from shmroute.worker.table_changes import TableChange, TableReset
from tests.watcher.running import wait_for

FLAGS = "  flags: {resource: configmaps.v1, value: .data}\n"
PLANS = "  plans: {resource: configmaps.v1, selector: kind=plan, value: .data.price}\n"


def config_map(name: str, data: dict[str, str], **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


class Place:
    """A folder of manifests, a tables file beside it, and a watcher of both."""

    def __init__(self, area: str, path: Path) -> None:
        self.manifests = path / "manifests"
        self.manifests.mkdir()
        self.file = path / "tables.yaml"
        self.reader = Reader(area)
        self.options = WatchOptions(
            area=area, manifests=str(self.manifests), namespaces=("default",), tables=str(self.file)
        )

    def put(self, *manifests: dict[str, Any]) -> None:
        for manifest in manifests:
            (self.manifests / f"{manifest['metadata']['name']}.json").write_text(json.dumps(manifest))

    def declare(self, *tables: str) -> None:
        self.file.write_text("tables:\n" + "".join(tables))

    @contextmanager
    def watching(self) -> Iterator[Watcher]:
        with Watcher(self.options) as watcher:
            self.reader.wait_ready(60)
            yield watcher


@pytest.fixture
def place(area: str, tmp_path: Path) -> Place:
    return Place(area, tmp_path)


def test_tables_are_added_removed_and_redefined_while_others_stay(place: Place) -> None:
    place.put(config_map("gold", {"price": "9"}, kind="plan"), config_map("dark", {"on": "1"}))
    place.declare(FLAGS)
    with place.watching():
        flags, plans = place.reader.table("flags"), place.reader.table("plans")
        flags.wait_ready(60)
        since = flags.generation
        with pytest.raises(TableNotFound):
            plans["gold"]

        place.declare(FLAGS, PLANS)
        wait_for(lambda: plans.ready)
        assert dict(plans) == {"gold": "9"}
        changes = iter(plans.changes(timeout=60))
        assert isinstance(next(changes), TableReset)

        place.declare(FLAGS, PLANS.replace(".data.price", ".data"))
        reset = next(changes)
        assert isinstance(reset, TableReset), "all rows are exchanged in one generation"
        assert (reset.reason, reset.rows) == ("redefined", {"gold": {"price": "9"}})
        assert dict(plans) == {"gold": {"price": "9"}}

        place.declare(FLAGS)
        wait_for(lambda: not plans.ready)
        with pytest.raises(TableNotFound):
            plans["gold"]

        place.put(config_map("dark", {"on": "2"}))
        (only,) = [next(iter(flags.changes(since, timeout=60)))]
        assert isinstance(only, TableChange), "the history of the table that stayed is whole"
        assert (only.kind, only.key, only.new) == ("changed", "dark", {"on": "2"})


def test_a_redefined_table_serves_its_old_rows_until_new_ones_arrive(place: Place) -> None:
    place.put(config_map("gold", {"price": "9"}, kind="plan"))
    place.declare(PLANS)
    with place.watching() as watcher:
        plans = place.reader.table("plans")
        plans.wait_ready(60)
        seen: list[Any] = []
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                seen.append(plans.get("gold"))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            place.declare(PLANS.replace(".data.price", ".data"))
            wait_for(lambda: plans["gold"] == {"price": "9"})
            place.declare(PLANS)
            wait_for(lambda: plans["gold"] == "9")
        finally:
            stop.set()
            thread.join()
        assert None not in seen
        assert watcher.status.tables == ("plans",)
        assert plans.age < 60


def test_a_mistake_in_the_file_is_reported_and_keeps_the_tables(place: Place) -> None:
    place.put(config_map("dark", {"on": "1"}))
    place.declare(FLAGS)
    with place.watching() as watcher:
        flags = place.reader.table("flags")
        flags.wait_ready(60)
        for text, words in (
            (f"tables:\n{FLAGS}  plans: {{resource: configmaps}}\n", f"{place.file}:3: table 'plans': resource"),
            (f"tables:\n{FLAGS.replace('value', 'valeu')}", "did you mean 'value'?"),
            ("tables: [", "tables.yaml"),
            ("", "write one map"),
        ):
            place.file.write_text(text)
            wait_for(lambda words=words: words in watcher.status.problem)  # type: ignore[misc]
            assert flags["dark"] == {"on": "1"}
        place.file.unlink()
        wait_for(lambda: "cannot be read" in watcher.status.problem)
        place.put(config_map("dark", {"on": "2"}))
        wait_for(lambda: flags["dark"] == {"on": "2"})
        place.declare(FLAGS)
        wait_for(lambda: not watcher.status.problem)


def test_objects_beyond_the_limits_are_set_aside_the_youngest_first(place: Place) -> None:
    first, second, third = (config_map(name, {"on": name}) for name in ("one", "two", "three"))
    for created, manifest in enumerate((second, first, third)):
        manifest["metadata"]["creationTimestamp"] = f"2026-01-0{created + 1}T00:00:00Z"
    place.put(first, second, third)
    place.declare(FLAGS.replace("value", "limits: {objects: 2}, value"))
    with place.watching() as watcher:
        flags = place.reader.table("flags")
        flags.wait_ready(60)
        assert sorted(flags) == ["one", "two"]
        full = "table flags is full (limits.objects: 2): 1 of the youngest objects are set aside"
        wait_for(lambda: full in watcher.status.no_room)
        (place.manifests / "two.json").unlink()
        wait_for(lambda: sorted(flags) == ["one", "three"])
        wait_for(lambda: not watcher.status.no_room)


class Noting:
    """A handler that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any]] = []

    def on_add(self, item: TableItem) -> None:
        self.calls.append(("add", None, item.value))

    def on_update(self, old: TableItem, new: TableItem) -> None:
        self.calls.append(("update", old.value, new.value))

    def on_delete(self, item: TableItem) -> None:
        self.calls.append(("delete", item.value, None))


def test_a_handler_of_a_table_gets_only_its_objects(place: Place) -> None:
    place.put(config_map("dark", {"on": "1"}), config_map("gold", {"price": "9"}, kind="plan"))
    place.declare(FLAGS, PLANS)
    place.options = msgspec.structs.replace(place.options, resync_seconds=1.0)
    noting = Noting()
    with Watcher(place.options, table_handlers={"plans": noting}):
        wait_for(lambda: noting.calls)
        assert noting.calls[0] == ("add", None, "9")
        wait_for(lambda: ("update", "9", "9") in noting.calls)  # the resync
        place.put(config_map("gold", {"price": "10"}, kind="plan"))
        wait_for(lambda: ("update", "9", "10") in noting.calls)
        place.declare(FLAGS, PLANS.replace(".data.price", ".data"))
        wait_for(lambda: noting.calls[-1][2] == {"price": "10"})
        (place.manifests / "gold.json").unlink()
        wait_for(lambda: noting.calls[-1] == ("delete", {"price": "10"}, None))


def test_a_handler_of_an_undeclared_table_is_refused(place: Place) -> None:
    place.declare(FLAGS)
    with pytest.raises(ConfigError, match="there is no table 'plans'"):
        Watcher(place.options, table_handlers={"plans": Noting()})


def test_a_field_selector_selects_in_a_folder_too(place: Place) -> None:
    place.put(config_map("dark", {"on": "1"}), config_map("light", {"on": "2"}))
    place.declare(FLAGS.replace("value", "fieldSelector: 'metadata.name!=dark,data.on=2', value"))
    with place.watching():
        flags = place.reader.table("flags")
        flags.wait_ready(60)
        assert list(flags) == ["light"]


def test_a_table_keeps_its_rows_and_its_age_over_restarts(place: Place) -> None:
    place.put(config_map("dark", {"on": "1"}))
    place.declare(FLAGS)
    place.options = msgspec.structs.replace(place.options, checkpoint=str(place.file.with_name("checkpoint")))
    with place.watching() as watcher:
        place.reader.table("flags").wait_ready(60)
        wait_for(lambda: watcher.status.synced and place.reader.table("flags").age < 60)
    away = place.manifests.rename(place.manifests.with_name("away"))
    for removed in (False, True):  # the area is there; only the checkpoint is
        if removed:
            remove_area(place.options.area)
        with Watcher(place.options) as watcher, Reader(place.options.area) as reader:
            wait_for(lambda watcher=watcher: watcher.status.role == "writing")  # type: ignore[misc]
            reader.wait_ready(60)
            flags = reader.table("flags")
            assert flags["dark"] == {"on": "1"}
            wait_for(lambda flags=flags: flags.age < 60)  # type: ignore[misc]
            aged = flags.age
            wait_for(lambda flags=flags, aged=aged: flags.age > aged + 0.5)  # type: ignore[misc]
            assert not watcher.status.synced
    away.rename(place.manifests)
    with place.watching():
        wait_for(lambda: place.reader.table("flags").age < aged)


def test_a_table_of_secrets_waits_for_its_list_after_a_checkpoint(place: Place) -> None:
    place.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}, "data": {"key": "eA=="}})
    place.put(config_map("dark", {"on": "1"}))
    place.declare(FLAGS, "  keys: {resource: secrets.v1, value: .data, secrets: allowed}\n")
    checkpoint = place.file.with_name("checkpoint")
    place.options = msgspec.structs.replace(place.options, checkpoint=str(checkpoint))
    with place.watching() as watcher:
        place.reader.table("keys").wait_ready(60)
        place.reader.table("flags").wait_ready(60)
        wait_for(lambda: watcher.status.synced)
    assert b"eA==" not in checkpoint.read_bytes()
    remove_area(place.options.area)
    place.manifests.rename(place.manifests.with_name("away"))
    with Watcher(place.options), Reader(place.options.area) as reader:
        reader.wait_ready(60)
        assert reader.table("flags")["dark"] == {"on": "1"}
        assert not reader.table("keys").ready, "it would be empty"


TOO_LONG = "key .spec.code has 65536 bytes: at most 65535 are allowed"
EXTREMES: dict[str, dict[str, Any]] = {
    "numbers": {"most": 2**64 - 1, "least": -(2**63), "small": 1e-7, "large": 1e22, "zero": -0.0},
    "nothing": {"null": None, "tags": None, "size": None},
    "large": {"data": "y" * 1_500_000, "tags": ["x", "x", None, 1, True, "1", 2.5], "size": 1},
    "k" * 65_535: {"tags": ["x"]},
}


def test_extreme_keys_and_values_survive_a_restart_and_a_fork(place: Place) -> None:
    for number, (key, value) in enumerate({**EXTREMES, "l" * 65_536: {}}.items()):
        spec = {**value, "code": key}
        place.put({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": f"w{number}"}, "spec": spec})
    place.declare(
        "  widgets: {resource: widgets.v1.example.com, key: .spec.code, value: .spec,",
        " index: {tag: '.spec.tags[*]', size: .spec.size}}\n",
    )
    widgets = place.reader.table("widgets")
    rows = {key: {**value, "code": key} for key, value in EXTREMES.items()}

    def check() -> None:
        assert dict(widgets) == rows
        assert str(widgets["numbers"]["zero"]) == "-0.0"
        assert ("null" in widgets["nothing"], "null" in widgets["large"]) == (True, False)
        assert widgets.keys_by("tag", "x") == ("k" * 65_535, "large"), "a value that comes twice counts once"
        assert [widgets.keys_by("tag", each) for each in (1, True, "1", 2.5)] == [("large",)] * 4
        assert (widgets.keys_by("tag", False), widgets.keys_by("size", 1)) == ((), ("large",))

    for _ in range(2):
        with place.watching() as watcher:
            wait_for(lambda watcher=watcher: widgets.ready and watcher.status.synced)  # type: ignore[misc]
            check()
            child = os.fork()
            if not child:
                code = 1
                try:
                    check()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            wait_for(lambda: [reason for _, reason, _ in invalid(place.options.area)] == [TOO_LONG])


def invalid(area: str) -> list[tuple[str, str, bool]]:
    rows = [msgspec.msgpack.decode(row, type=InvalidRow) for _, _, row in RowReader(area).rows(Kind.INVALID)]
    return [(row.kind, row.reason, row.last_good) for row in rows]


@pytest.mark.parametrize("content", ["tables: [", f"tables:\n{FLAGS}{PLANS}  new: {{resource: configmaps}}\n"])
@pytest.mark.parametrize("removed", [False, True], ids=["area is there", "only the checkpoint is"])
def test_tables_go_on_over_a_restart_while_their_file_is_invalid(place: Place, removed: bool, content: str) -> None:
    area = place.options.area
    place.put(config_map("dark", {"on": "1"}), config_map("gold", {"price": "9"}, kind="plan"))
    place.declare(FLAGS, PLANS)
    place.options = msgspec.structs.replace(place.options, checkpoint=str(place.file.with_name("checkpoint")))
    with place.watching() as watcher:
        place.reader.table("plans").wait_ready(60)
        place.reader.table("flags").wait_ready(60)
        wait_for(lambda: watcher.status.synced)
        since = place.reader.generation
    if removed:
        remove_area(area)
        place.reader.close()
    place.file.write_text(content)
    place.put(config_map("dark", {"on": "2"}))
    with place.watching() as watcher:
        flags, plans = place.reader.table("flags"), place.reader.table("plans")
        wait_for(lambda: flags["dark"] == {"on": "2"})
        assert plans["gold"] == "9"
        wait_for(lambda: "tables.yaml" in watcher.status.problem)
        assert [(kind, last_good) for kind, _, last_good in invalid(area)] == [("File", True)]
        if not removed:
            changes = [change for change in plans.changes(since, timeout=0) if isinstance(change, TableReset)]
            assert changes == [], "the rows of the table stayed as they were"
        place.declare(FLAGS)
        wait_for(lambda: not plans.ready)
        wait_for(lambda: not watcher.status.problem)
        assert (flags["dark"], invalid(area)) == ({"on": "2"}, [])
    place.file.write_text(content)
    with place.watching():
        assert place.reader.table("flags").ready
        with pytest.raises(TableNotFound, match="shmroute get invalid"):
            place.reader.table("plans")["gold"]


def test_a_first_start_with_a_mistake_in_the_file_serves_all_that_is_valid(place: Place) -> None:
    place.put(config_map("dark", {"on": "1"}), config_map("gold", {"price": "9"}, kind="plan"))
    place.declare(FLAGS, PLANS.replace("configmaps.v1", "configmaps"))
    noting = Noting()
    with Watcher(place.options, table_handlers={"plans": noting}) as watcher:
        place.reader.wait_ready(60)
        flags, plans = place.reader.table("flags"), place.reader.table("plans")
        flags.wait_ready(60)
        assert flags["dark"] == {"on": "1"}
        assert f"{place.file}:3: table 'plans': resource" in watcher.status.problem
        families = {family.name: family.samples for family in WatcherCollector(watcher._loop).collect()}
        assert [families[f"shmroute_{name}"][0].value for name in ("blocked", "tables_file_invalid")] == [0, 1]
        assert not plans.ready
        place.declare(FLAGS, PLANS)
        plans.wait_ready(60)
        wait_for(lambda: noting.calls == [("add", None, "9")])
        wait_for(lambda: not watcher.status.problem)
        assert invalid(place.options.area) == []


def test_a_first_start_without_a_usable_file_serves_the_routes(place: Place) -> None:
    place.put(config_map("dark", {"on": "1"}))
    with place.watching() as watcher:
        assert place.reader.models() == {}
        assert "tables.yaml: cannot be read" in watcher.status.problem
        assert [(kind, last_good) for kind, _, last_good in invalid(place.options.area)] == [("File", False)]
        place.declare(FLAGS)
        place.reader.table("flags").wait_ready(60)


def test_a_mistake_in_an_argument_still_ends_the_start(place: Place) -> None:
    place.declare(FLAGS)
    with pytest.raises(ConfigError, match="--table: table 'plans': resource"):
        Watcher(msgspec.structs.replace(place.options, table=("plans=configmaps",)))


def by_rename(file: Path, text: str) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.replace(file)


def in_place(file: Path, text: str) -> None:
    with file.open("r+") as stream:
        stream.write(text)
        stream.truncate()


def by_kubelet(file: Path, text: str) -> None:
    """Write the file as a kubelet does: `tables.yaml -> ..data/tables.yaml`, `..data -> ..2026_...`."""
    folder = file.parent
    versions = len(list(folder.glob("..2*")))
    version = folder / f"..2026_{versions}"
    version.mkdir()
    (version / file.name).write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(version.name)
    link.replace(folder / "..data")
    if not file.is_symlink():
        file.unlink()
        file.symlink_to(f"..data/{file.name}")


@pytest.mark.parametrize("write", [by_rename, in_place, by_kubelet])
def test_every_way_of_replacing_the_file_is_noticed(place: Place, write: Callable[[Path, str], None]) -> None:
    place.put(config_map("gold", {"price": "9"}, kind="plan"))
    place.declare(FLAGS)
    if write is by_kubelet:
        write(place.file, f"tables:\n{FLAGS}")
    with place.watching():
        write(place.file, f"tables:\n{FLAGS}{PLANS}")
        wait_for(lambda: place.reader.table("plans").ready)
        write(place.file, f"tables:\n{FLAGS}")
        wait_for(lambda: not place.reader.table("plans").ready)
