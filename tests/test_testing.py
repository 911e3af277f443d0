"""`shmroute.testing`: answers without a watcher, a real watcher on a folder, and fixtures for both."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from shmroute import (
    ConfigError,
    ModelNotFound,
    NoEndpoints,
    NotReady,
    Reader,
    StaleRoutes,
    TableNotFound,
    TableNotReady,
    get,
    resolve,
    table,
)
from shmroute.testing import Answer, Answers, Pod, not_ready, routes, tables, watched_folder
from tests.forks import Forks
from tests.leftovers import SHARED_MEMORY
from tests.processes import bound, is_running
from tests.supervise.running import memory_of, until

pytest_plugins = ["pytester"]


def appmodel(app: str, *models: str) -> str:
    return json.dumps(
        {
            "apiVersion": "iidp.com/v1",
            "kind": "AppModel",
            "metadata": {"name": app},
            "spec": {"app": app, "version": "v1", "models": [{"name": model, "version": "v1"} for model in models]},
        }
    )


def own_memory() -> list[str]:
    return [path.name for path in SHARED_MEMORY.glob(f"shmroute-test-{os.getpid()}-*")]


# --- routes ------------------------------------------------------------------------------------------------


def test_resolve_returns_the_set_answers_within_the_block() -> None:
    with routes({"iiot_dataservice": "iiot"}) as given:
        assert resolve("iiot_dataservice").app == "iiot"
        given.set({"other": "iiot2"})
        assert [resolve(model).app for model in ("iiot_dataservice", "other")] == ["iiot", "iiot2"]
        given.remove("iiot_dataservice")
        assert get("iiot_dataservice") is None
    with pytest.raises(NotReady):
        resolve("other")


def test_an_answer_can_set_every_field_of_a_route() -> None:
    answer = Answer(
        app="iiot",
        version="v-2",
        app_version="v7",
        namespace="meta-test",
        endpoints=("10.0.0.1:80", "[fd00::1]:81"),
        metadata={"unit": "kWh"},
    )
    with routes({"model": answer}):
        route = resolve("model")
        assert (route.version, route.app_version, route.namespace) == ("v-2", "v7", "meta-test")
        assert {str(endpoint) for endpoint in route.endpoints} == {"10.0.0.1:80", "[fd00::1]:81"}
        assert route.metadata["unit"] == "kWh"
        with pytest.raises(ModelNotFound):
            resolve("model", namespace="elsewhere")


def test_unknown_endpoints_differ_from_an_empty_tuple() -> None:
    with routes({"unknown": "iiot", "empty": Answer(app="iiot", endpoints=())}):
        for model, reason in (("unknown", "not known"), ("empty", "known empty")):
            with pytest.raises(NoEndpoints) as error:
                resolve(model).pick()
            assert error.value.reason == reason


def test_routes_keep_age_0_unless_an_age_is_set() -> None:
    with routes({"model": "iiot"}) as given:
        assert resolve("model", max_age=0.001).app == "iiot"
        for seconds in (60.0, time.monotonic() + 60.0, math.inf):
            given.set_age(seconds)
            with pytest.raises(StaleRoutes):
                resolve("model", max_age=59.0)
        given.set({"model": "iiot2"})
        assert resolve("model", max_age=0.001).app == "iiot2"


def test_answers_of_the_innermost_block_are_used() -> None:
    with routes({"model": "outer"}):
        with routes({"model": "inner"}):
            assert resolve("model").app == "inner"
        assert resolve("model").app == "outer"


def test_readers_forks_and_subprocesses_see_the_answers() -> None:
    code = "import shmroute; print(shmroute.resolve('model').app)"
    with routes({"model": "iiot"}), Forks() as forks:
        assert Reader().resolve("model").app == "iiot"
        assert forks.start(lambda pipe: pipe.send(resolve("model").app)).pipe.recv() == "iiot"
        assert subprocess.check_output(bound([sys.executable, "-c", code]), text=True, timeout=240) == "iiot\n"


def test_an_invalid_endpoint_is_refused_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMROUTE_AREA", "former")
    before = own_memory()
    with pytest.raises(ConfigError, match="write host:port"), routes({"model": Answer(app="a", endpoints=("a",))}):
        pass
    assert own_memory() == before
    assert os.environ["SHMROUTE_AREA"] == "former"


def test_pods_are_preferred_by_their_zone_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = (Pod("10.0.0.1:80", zone="a", hints=("a",)), Pod("10.0.0.2:80", zone="b", hints=("b",)))
    monkeypatch.setenv("SHMROUTE_ZONE", "b")
    with routes({"model": Answer(app="iiot", endpoints=pods)}):
        assert {str(resolve("model").pick()) for _ in range(10)} == {"10.0.0.2:80"}


def test_pods_that_are_not_ready_are_not_picked() -> None:
    pods = (Pod("10.0.0.1:80", ready=False), "10.0.0.2:80")
    with routes({"model": Answer(app="iiot", endpoints=pods)}):
        assert {str(resolve("model").pick()) for _ in range(10)} == {"10.0.0.2:80"}


def test_ambiguous_ports_are_named_by_the_error() -> None:
    with routes({"model": Answer(app="iiot", ambiguous_ports=("http", "grpc"))}):
        with pytest.raises(NoEndpoints, match="http, grpc") as error:
            resolve("model").pick()
        assert error.value.reason == "ambiguous port"


@pytest.mark.parametrize(
    ("answer", "state", "version", "value"),
    [
        (Answer(app="a"), "off", None, None),
        (Answer(app="a", metadata={"a": 1}), "loaded", "v1", {"a": 1}),
        (Answer(app="a", metadata_state="pending"), "pending", None, None),
        (
            Answer(app="a", metadata={"a": 1}, metadata_state="pending", metadata_version="v0"),
            "pending",
            "v0",
            {"a": 1},
        ),
        (Answer(app="a", metadata_state="missing"), "missing", None, None),
        (
            Answer(app="a", metadata={"a": 1}, metadata_state="outdated", metadata_version="v0"),
            "outdated",
            "v0",
            {"a": 1},
        ),
    ],
)
def test_metadata_has_the_state_that_was_set(answer: Answer, state: str, version: str | None, value: object) -> None:
    with routes({"model": answer}):
        route = resolve("model")
        assert (route.metadata_state, route.metadata_version, route.last_metadata) == (state, version, value)
        assert route.metadata == (value if version == "v1" else None)


def test_resolve_raises_not_ready_within_the_block() -> None:
    with routes({"model": "outer"}):
        with not_ready(), pytest.raises(NotReady):
            resolve("model")
        assert resolve("model").app == "outer"


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"model": Answer(app="a", endpoints=("10.0.0.1",))}, "model 'model': endpoint '10.0.0.1': write host:port"),
        ({"model": Answer(app="a", endpoints=("10.0.0.1:http",))}, "write host:port, such as 10.0.0.1:80"),
        ({"model": Answer(app="a", endpoints=("10.0.0.1:70000",))}, "write host:port"),
        ({"model": Answer(app="a", endpoints=("fd00::1:80",))}, r"such as .* \[fd00::1\]:80"),
        ({"model": Answer(app="a", endpoints="10.0.0.1:80")}, "write a tuple, also for a single address"),  # type: ignore[arg-type]
        ({"model": Answer(app="a", metadata=object())}, "model 'model': its metadata cannot be written as JSON"),
        ({"model": Answer(app="a", metadata_state="gone")}, "write one of loaded, pending"),  # type: ignore[arg-type]
        ({"model": 7}, "give an app's name or an Answer, not int"),
        ({"": "a"}, "not a model's name"),
    ],
)
def test_a_failed_set_gives_the_remedy_and_changes_nothing(answers: Answers, reason: str) -> None:
    with routes({"model": "before"}) as given:
        with pytest.raises(ConfigError, match=reason):
            given.set(answers)
        assert resolve("model").app == "before"
        given.set({"other": "later"})
        assert (resolve("model").app, resolve("other").app) == ("before", "later")


class Tenant(msgspec.Struct):
    quota: int
    region: str = ""


def test_tables_hold_the_set_objects_within_the_block() -> None:
    tenants, flags = table("tenants", Tenant), table("flags")
    with tables({"flags": {"checkout": {"enabled": "true"}, "none": None}}) as given:
        assert dict(flags) == {"checkout": {"enabled": "true"}, "none": None}
        with pytest.raises(TableNotFound):
            tenants["acme"]
        given.not_ready("tenants")
        with pytest.raises(TableNotReady):
            tenants["acme"]
        given.set("tenants", {"acme": Tenant(3, "eu"), "a b/ü": {"quota": 2}}, index={"region": ".region"})
        assert dict(tenants) == {"acme": Tenant(3, "eu"), "a b/ü": Tenant(2)}
        assert tenants.by("region", "eu") == (Tenant(3, "eu"),)
        given.set("tenants", {"umbrella": {"quota": 1, "region": "us"}})
        assert tenants.keys_by("region", "us") == ("umbrella",)
        assert list(tenants) == ["umbrella"]
        assert tenants.age == 0.0
        given.remove("tenants")
        with pytest.raises(TableNotFound):
            tenants["umbrella"]
        assert flags["none"] is None
    with pytest.raises(NotReady):
        flags["checkout"]


def test_a_routes_block_has_tables_too() -> None:
    with routes({"model": "iiot"}) as given:
        given.tables.set("flags", {"a": 1})
        given.set({"other": "iiot2"})
        assert (resolve("model").app, resolve("other").app, table("flags")["a"]) == ("iiot", "iiot2", 1)
        given.set_age(7.0)
        assert 7.0 <= table("flags").age < 60.0


@pytest.mark.parametrize(
    ("name", "objects", "index", "reason"),
    [
        ("Bad Name", {}, {}, "lower-case letters"),
        ("models", {}, {}, "belongs to shmroute"),
        ("new", {"": 1}, {}, "must give a string that is not empty"),
        ("new", {"a": object()}, {}, "'a' cannot be written as JSON"),
        ("new", {"a": {"region": {}}}, {"region": ".region"}, "gives a map"),
        ("new", {"a": 1}, {"region": ".["}, "not a JSONPath"),
    ],
)
def test_a_table_that_cannot_be_set_changes_nothing(
    name: str, objects: dict[str, object], index: dict[str, str], reason: str
) -> None:
    with tables({"flags": {"a": 1}}) as given:
        with pytest.raises(ConfigError, match=reason):
            given.set(name, objects, index)
        assert table("flags")["a"] == 1
        given.set("later", {"b": 2})
        assert (table("flags")["a"], table("later")["b"]) == (1, 2)


def test_another_folder_can_replace_dev_shm(tmp_path: Path) -> None:
    code = (
        "import os, shmroute; from shmroute.testing import routes\n"
        "with routes({'model': 'iiot'}) as given:\n"
        "    given.tables.set('flags', {'a': 'on'})\n"
        "    print(shmroute.resolve('model').app, shmroute.table('flags')['a'])\n"
        "    print(len(os.listdir(os.environ['SHMROUTE_DIR'])))"
    )
    environment = {**os.environ, "SHMROUTE_DIR": str(tmp_path)}
    output = subprocess.check_output(bound([sys.executable, "-c", code]), env=environment, text=True, timeout=60)
    app, flag, files = output.split()
    assert (app, flag) == ("iiot", "on")
    assert int(files) > 0
    assert list(tmp_path.iterdir()) == []


# --- a watched folder --------------------------------------------------------------------------------------


def test_writing_to_a_watched_folder_returns_once_it_is_served(tmp_path: Path) -> None:
    with watched_folder(tmp_path) as folder:
        assert get("model") is None
        first = folder.write("app.yaml", appmodel("iiot", "model"))
        assert resolve("model").app == "iiot"
        assert folder.write("app.yaml", appmodel("iiot2", "model")) > first
        assert resolve("model").app == "iiot2"
        same = folder.reader.generation
        assert folder.write("app.yaml", appmodel("iiot2", "model") + "\n") == same, "nothing has changed"
        folder.remove("app.yaml")
        assert get("model") is None
    assert memory_of(folder.area) == []
    with pytest.raises(NotReady):
        resolve("model")


def test_a_watched_folders_watcher_takes_options(tmp_path: Path) -> None:
    with watched_folder(tmp_path, ["--namespace", "mine"]) as folder:
        folder.write("app.yaml", appmodel("iiot", "model"))
        assert resolve("model").namespace == "mine"


def test_watcher_of_a_killed_test_run_ends_and_removes_its_area(tmp_path: Path) -> None:
    code = (
        "import sys; from shmroute.shm.control import ControlReader; from shmroute.testing import watched_folder\n"
        "with watched_folder(sys.argv[1]) as folder:\n"
        "    print(folder.area, ControlReader(folder.area).writer_pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        bound([sys.executable, "-c", code, tmp_path]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        area, watcher = process.stdout.readline().split()
        process.send_signal(signal.SIGKILL)
    until(lambda: not is_running(int(watcher)), "end of the watcher")
    assert memory_of(area) == []


# --- the plugin --------------------------------------------------------------------------------------------

USERS_TESTS = """
import gc
import warnings

import pytest
from shmroute import NotReady, get, resolve, table

APPMODEL = '''{appmodel}'''


@pytest.mark.parametrize("app", ["iiot", "iiot2"])
def test_handler(shmroute_routes, app):
    assert get("model") is None
    shmroute_routes.set({{"model": app}})
    assert resolve("model").app == app


def test_a_table(shmroute_tables, shmroute_routes):
    shmroute_routes.set({{"model": "iiot"}})
    shmroute_tables.set("flags", {{"checkout": {{"enabled": True}}}})
    assert (resolve("model").app, table("flags")["checkout"]["enabled"]) == ("iiot", True)


def test_with_a_real_watcher(shmroute_folder):
    shmroute_folder.write("iiot.json", APPMODEL)
    assert resolve("model").app == "iiot"


def test_nothing_is_left():
    gc.collect()
    with pytest.raises(NotReady):
        resolve("model")
"""


def test_the_fixtures_work_where_every_warning_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USERS_TESTS.format(appmodel=appmodel("iiot", "model")))
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nfilterwarnings = ["error"]\naddopts = "--strict-config"\n')
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=240)
    result.assert_outcomes(passed=5)
    result.stdout.no_fnmatch_line("*warnings summary*")


def test_pytest_lists_the_fixtures_with_their_purpose(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--fixtures", timeout=240)
    result.stdout.fnmatch_lines(["shmroute_routes*", "*Answers for `shmroute.resolve`*"])
    result.stdout.fnmatch_lines(["shmroute_tables*", "*Objects for `shmroute.table`*"])
    result.stdout.fnmatch_lines(["shmroute_folder*", "*Empty folder of manifests, followed by a real watcher*"])


def test_the_plugin_loads_nothing_until_a_fixture_is_used() -> None:
    code = "import sys, shmroute.pytest_plugin; print('shmroute.testing' in sys.modules)"
    assert subprocess.check_output(bound([sys.executable, "-c", code]), text=True, timeout=240) == "False\n"


@pytest.mark.parametrize(
    "wrong",
    [
        "model",
        {"m": 3},
        {"": "app"},
        {"nul\0": "app"},
        {"lone\ud800": "app"},
        {"m": Answer(app="")},
        {"m": Answer(app=3)},  # type: ignore[arg-type]
        {"m": Answer(app="a", version=2)},  # type: ignore[arg-type]
        {"m": Answer(app="a", endpoints="10.0.0.1:80")},  # type: ignore[arg-type]
        {"m": Answer(app="a", endpoints=("10.0.0.1",))},
        {"m": Answer(app="a", endpoints=(Pod("10.0.0.1:80", hints="a"),))},  # type: ignore[arg-type]
        {"m": Answer(app="a", ambiguous_ports="http")},  # type: ignore[arg-type]
        {"m": Answer(app="a", metadata=object())},
        {"m": Answer(app="a", metadata_state="weird")},  # type: ignore[arg-type]
        {"m": Answer(app="a", metadata_version=3)},  # type: ignore[arg-type]
    ],
    ids=lambda wrong: ascii(wrong)[:60],
)
def test_a_refused_answer_gives_the_form_and_affects_no_later_one(wrong: Answers) -> None:
    with routes({"ok": "app"}) as given:
        with pytest.raises(ConfigError, match=r"write|give an app's name|cannot be written"):
            given.set(wrong)
        with pytest.raises(ConfigError, match="0 or more"):
            given.set_age(math.nan)
        assert resolve("ok").app == "app"
        given.set({"later": "app2"})
        assert resolve("later").app == "app2"
