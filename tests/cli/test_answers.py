"""Answers go to standard output, everything else to standard error; tools can parse each output form."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import yaml

from shmroute.native import missing
from shmroute.rows import App, ConflictRow, Kind, RouteRow, encode
from shmroute.shm.writing.publisher import Publisher
from shmroute.testing import Answer, Routes
from shmroute.watcher.status import encode_status
from tests.cli.running import WAIT_SECONDS, Cli, age, publish, published, start, waiting_status
from tests.supervise.running import until


def test_a_table_has_a_header_and_aligned_columns(cli: Cli, area: str) -> None:
    with published(area):
        lines = cli("get", "models", "--area", area).out.splitlines()
    assert lines[0].split() == ["MODEL", "VERSION", "APP", "APP-VERSION", "NAMESPACE"]
    assert [line.split()[0] for line in lines[1:]] == ["model1", "model2", "other"]
    assert len({line.index("sdkApp") for line in lines if "sdkApp" in line} | {lines[0].index("APP ")}) == 1


@pytest.mark.parametrize("what", ["models", "apps", "endpoints", "metadata", "conflicts", "invalid"])
def test_every_kind_is_listed_in_every_form(cli: Cli, area: str, what: str) -> None:
    with published(area):
        found = json.loads(cli("get", what, "--area", area, "-o", "json").out)
        assert yaml.safe_load(cli("get", what, "--area", area, "-o", "yaml").out).keys() == found.keys() == {"items"}
        names = cli("get", what, "--area", area, "-o", "name").out.split()
        assert len(names) == len(found["items"])
        for form in ("table", "wide"):
            answered = cli("get", what, "--area", area, "-o", form)
            assert len(answered.out.splitlines()) == (len(names) + 1 if names else 0)
            assert answered.err == (
                "" if names else "No invalid objects.\n" if what == "invalid" else f"No {what} found.\n"
            )


def test_get_filters_by_namespace_and_names(cli: Cli, area: str) -> None:
    with published(area):
        assert cli("get", "models", "-n", "west", "-o", "name", "--area", area).out == "other\n"
        assert cli("get", "models", "model2", "-o", "name", "--area", area).out == "model2\n"
        answered = cli("get", "models", "model2", "absent", "-o", "name", "--area", area)
        assert answered.out == "model2\n"
        assert answered.err == "error: models 'absent' not found\n"


def test_route_as_json_is_complete_and_keeps_non_ascii_letters(cli: Cli, area: str) -> None:
    with published(area):
        route = json.loads(cli("resolve", "model1", "-o", "json", "--area", area).out)
        assert route["endpoints"] == ["10.0.0.1:80", "[fd00::1]:81"]
        assert (route["app"], route["version"], route["namespace"]) == ("sdkApp", "v-1", "east")
        out = cli("resolve", "model2", "-o", "json", "--area", area).out
        assert "ü" in out
        assert json.loads(out)["metadata"] == {"a": "ü"}
        several = json.loads(cli("resolve", "model1", "model2", "-o", "json", "--area", area).out)
        assert [item["model"] for item in several["items"]] == ["model1", "model2"]


def test_get_shows_found_rows_and_reports_missing_ones(cli: Cli, area: str) -> None:
    with published(area):
        answered = cli("resolve", "absent", "model1", "-o", "name", "--area", area)
    assert answered.out == "model1\n"
    assert answered.err.startswith(f"error: no app serves model 'absent' in area '{area}' (3 models, in step ")


def test_explain_gives_the_reasons_for_a_route_and_against_others(cli: Cli, area: str) -> None:
    with published(area):
        out = cli("explain", "model1", "--area", area).out
        assert "served by app sdkApp v1" in out
        assert "because AppModel east/model1 claims it" in out
        assert "ready: 10.0.0.1:80, [fd00::1]:81" in out
        assert "known empty" in cli("explain", "other", "--area", area).out
        assert "not known" in cli("explain", "model2", "--area", area).out
        answered = cli("explain", "absent", "--area", area)
        assert answered.out == ""
        assert "No AppModel claims 'absent'" in answered.err
        facts = json.loads(cli("explain", "model1", "-o", "json", "--area", area).out)
        assert facts["appmodel"] == "east/model1"


def test_status_distinguishes_dead_frozen_and_live_watchers(cli: Cli, area: str) -> None:
    with published(area):
        out = cli("status", "--area", area).out
        assert "alive" in out
        assert f"look-ups    this command uses the {f'plain ({missing})' if missing else 'native'} look-up" in out
        assert json.loads(cli("status", "-o", "json", "--area", area).out)["watcher"]["alive"] is True
    publish(area)
    age(area, 60.0)
    answered = cli("status", "--area", area)
    assert "dead or frozen" in answered.out
    state = json.loads(cli("status", "-o", "json", "--area", area).out)
    assert state["watcher"]["alive"] is False
    assert state["age"] >= 60


def test_status_names_a_dead_watcher_and_its_growing_ages(cli: Cli, area: str) -> None:
    publish(area)
    waiting = waiting_status(area, "appmodels", "watching", "")
    sources = (msgspec.structs.replace(waiting.sources[0], contact_ns=1),)
    status = msgspec.structs.replace(waiting, synced=True, sources=sources, now_ns=300_000_001)
    with Publisher(area) as publisher:
        publisher.control.store_status(encode_status(status))
    age(area, 60.0)
    facts = json.loads(cli("status", "-o", "json", "--area", area).out)
    assert facts["sources"][0]["age"] >= 60.0
    out = cli("status", "--area", area).out
    assert "the watcher is dead or frozen: no heartbeat for 6" in out
    assert "appmodels: was watching, in step 6" in out


def test_audit_without_a_watcher_or_a_server_says_so(cli: Cli, area: str, tmp_path: Path) -> None:
    publish(area)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    control = Path(f"/dev/shm/shmroute-{area}")
    data = bytearray(control.read_bytes())
    pid = os.getpid().to_bytes(8, sys.byteorder)
    assert data.count(pid) == 1
    control.write_bytes(data.replace(pid, ended.pid.to_bytes(8, sys.byteorder)))
    answered = cli("audit", "--area", area)
    assert answered.code == 2
    assert "cannot be signalled" in answered.err


def test_get_watch_prints_each_change_until_interrupted(area: str) -> None:
    with published(area) as routes:
        process = start("get", "models", "-w", "-o", "json", "--area", area)
        try:
            assert process.stdout is not None
            first = [json.loads(process.stdout.readline()) for _ in range(3)]
            assert sorted((line["event"], line["model"]) for line in first) == [
                ("added", "model1"),
                ("added", "model2"),
                ("added", "other"),
            ]
            routes.set({"model2": Answer(app="movedApp", namespace="east")})
            routes.remove("other")
            second = [json.loads(process.stdout.readline()) for _ in range(2)]
            assert [(line["event"], line["model"], line["app"]) for line in second] == [
                ("changed", "model2", "movedApp"),
                ("removed", "other", "otherApp"),
            ]
            assert first[0]["generation"] < second[0]["generation"] < second[1]["generation"]
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_SECONDS) == 130
            _, err = process.communicate()
            assert err.strip() == "interrupted"
        finally:
            process.kill()
            process.communicate()


def test_get_table_watch_prints_old_and_new_values_of_an_index(area: str) -> None:
    with published(area) as routes:
        index = {"region": ".region"}
        routes.tables.set("tenants", {"acme": {"region": "eu"}, "umbrella": {"region": "us"}}, index)
        every = start("get", "tenants", "-w", "--area", area)
        some = start("get", "tenants", "-w", "-o", "json", "--by", "region=us", "--area", area)
        try:
            assert every.stdout is not None
            assert some.stdout is not None
            lines = [every.stdout.readline().split() for _ in range(3)]
            first = json.loads(some.stdout.readline())
            assert lines[0] == ["TIME", "EVENT", "KEY", "OLD", "NEW"]
            assert [line[1:] for line in lines[1:]] == [
                ["added", "acme", '{"region":"eu"}'],
                ["added", "umbrella", '{"region":"us"}'],
            ]
            routes.tables.set("tenants", {"acme": {"region": "us"}})
            lines = [every.stdout.readline().split() for _ in range(2)]
            assert sorted(line[1:] for line in lines) == [
                ["changed", "acme", '{"region":"eu"}', '{"region":"us"}'],
                ["removed", "umbrella", '{"region":"us"}'],
            ]
            found = [first, *(json.loads(some.stdout.readline()) for _ in range(2))]
            assert sorted((each["event"], each["key"], each["new"]) for each in found if each["new"]) == [
                ("added", "acme", {"region": "us"}),
                ("added", "umbrella", {"region": "us"}),
            ]
            assert [each["key"] for each in found if each["event"] == "removed"] == ["umbrella"]
            assert all(each["time"] and each["generation"] for each in found)
        finally:
            for process in (every, some):
                process.kill()
                process.communicate()


def test_get_table_has_every_output_form_and_refuses_wrong_options(cli: Cli, area: str) -> None:
    with published(area) as routes:
        routes.tables.set("tenants", {"acme": {"region": "eu", "n": 1}}, {"n": ".n", "region": ".region"})
        assert cli("get", "tenants", "-o", "name", "--area", area).out == "acme\n"
        (item,) = json.loads(cli("get", "tenants", "-o", "json", "--area", area).out)["items"]
        assert item.keys() == {"key", "bytes", "value"}, "the whole value once, and no namespace that is not known"
        assert cli("get", "tenants", "-o", "wide", "--area", area).out.split()[:3] == ["KEY", "VALUE", "BYTES"]
        for by in ("n=1", "region=eu"):
            (item,) = json.loads(cli("get", "tenants", "--by", by, "-o", "json", "--area", area).out)["items"]
            assert item["value"] == {"region": "eu", "n": 1}
        for arguments, reason in (
            (("tenants", "-n", "default"), "-n is not for tables"),
            (("tenants", "-w", "--by", "region"), "write INDEX=VALUE"),
            (("tenants", "-w", "--by", "zone=eu"), "it has n, region"),
            (("nothing", "-w"), "neither a table of this area"),
            (("apps", "-w"), "-w is for models and declared tables"),
        ):
            answered = cli("get", *arguments, "--area", area)
            assert (answered.code, reason in answered.err) == (2, True), answered.err


def test_get_tables_lists_the_built_in_tables_with_their_counts(cli: Cli, area: str) -> None:
    with published(area) as routes:
        routes.tables.set("tenants", {"acme": {"region": "eu"}}, {"region": ".region"})
        apps, endpoints, models = (
            len(set(cli("get", each, "-o", "name", "--area", area).out.split()))
            for each in ("apps", "endpoints", "models")
        )
        items = json.loads(cli("get", "tables", "-o", "json", "--area", area).out)["items"]
        assert [(each["table"], each["resource"], each["rows"], each["indexes"], each["ready"]) for each in items] == [
            ("apps", "appmodels.v1.iidp.com", apps, [], "yes"),
            ("endpoints", "endpointslices.v1.discovery.k8s.io", endpoints, [], "yes"),
            ("models", "appmodels.v1.iidp.com", models, [], "yes"),
            ("tenants", "objects.v1", 1, ["region"], "yes"),
        ]
        assert cli("get", "tables", "models", "-o", "name", "--area", area).out == "models\n"


def test_status_watch_without_a_terminal_prints_a_line_per_change(area: str) -> None:
    with published(area) as routes:
        process = start("status", "--watch", "--area", area)
        try:
            assert process.stdout is not None
            assert "generation" in process.stdout.readline()
            routes.set({"model2": "movedApp"})
            assert select.select([process.stdout], [], [], WAIT_SECONDS)[0]
            assert "generation" in process.stdout.readline()
        finally:
            process.kill()
            process.communicate()


def test_closed_output_pipe_prints_no_traceback(area: str) -> None:
    with published(area) as routes:
        routes.set({f"m{number}": "app" for number in range(5_000)})
        process = start("get", "models", "--area", area)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        code = process.wait(WAIT_SECONDS)
        err = process.stderr.read()
        process.stderr.close()
    assert code == 1
    assert err == ""


@pytest.mark.fault(51)
@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_print_no_traceback(area: str, closed: str) -> None:
    publish(area)
    command = f"exec {shlex.quote(sys.executable)} -m shmroute status --area {area} {closed}"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=WAIT_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}], ids=str)
def test_piped_output_has_no_colours(area: str, variables: dict[str, str]) -> None:
    with published(area):
        for command in (("status",), ("get", "models"), ("explain", "model1"), ("--help",)):
            process = start(*command, **variables, SHMROUTE_AREA=area)
            out, err = process.communicate(timeout=WAIT_SECONDS)
            assert "\x1b" not in out + err


def test_a_long_running_commands_log_goes_to_standard_error_as_text_or_json(area: str, tmp_path: Path) -> None:
    for form in ("text", "json"):
        process = start(
            "watch", "--manifests", tmp_path, "--area", area, "--log-format", form, "--listen", "127.0.0.1:0"
        )
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
        out, _ = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0
        assert out == ""
        assert "status page on port" in (json.loads(line)["message"] if form == "json" else line)


def test_explain_suggests_similar_names_and_says_where_it_looked(cli: Cli, area: str) -> None:
    with published(area):
        answered = cli("explain", "modle1", "--area", area)
        assert answered.code == 5
        assert "Did you mean 'model1'" in answered.err
        assert "3 models" in answered.err
        assert (
            "not served in namespace 'west', but in: east" in cli("explain", "model1", "-n", "west", "--area", area).err
        )


def test_explain_of_an_unknown_model_names_source_and_obstacle(cli: Cli, area: str) -> None:
    publish(area)
    with Publisher(area) as publisher:
        publisher.control.store_status(encode_status(waiting_status(area, "appmodels", "backing-off", "404 of a kind")))
        publisher.control.beat(time.monotonic_ns(), time.monotonic_ns(), synced=True)
    said = cli("explain", "unknown", "--area", area).err
    assert "https://cluster" in said
    assert "namespace east, selector iidp=iidp" in said
    assert "The source appmodels is backing-off: 404 of a kind." in said


@pytest.mark.parametrize(
    ("winner", "other", "claim"),
    [
        (("2026-01-01T00:00:00Z", ""), ("2026-01-02T00:00:00Z", ""), "is the oldest"),
        (
            ("", "2026-01-03T00:00:00Z"),
            ("2026-01-02T00:00:00Z", ""),
            "has no creation time, which counts as the oldest",
        ),
        (("", "2026-01-01T00:00:00Z"), ("", "2026-01-02T00:00:00Z"), "was seen first"),
        (("", "2026-01-01T00:00:00Z"), ("", "2026-01-01T00:00:00Z"), "comes first by name, since nothing says"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_explain_names_the_rule_that_decided_a_conflict(
    cli: Cli, area: str, winner: tuple[str, str], other: tuple[str, str], claim: str
) -> None:
    apps = [
        App(name, "v1", "east", name, f"east/{name}", (("m", "v-1"),), created=created, first_seen=seen)
        for name, (created, seen) in (("one", winner), ("two", other))
    ]
    with Publisher(area) as publisher:
        publisher.publish(
            {
                (int(Kind.MODEL), "m"): encode(RouteRow("m", "v-1", "one", "v1", "east", "one")),
                (int(Kind.CONFLICT), "east/m"): encode(ConflictRow("m", "east", "one", ("two",), 1)),
                **{(int(Kind.APP), app.app): encode((app,)) for app in apps},
            }
        )
        publisher.control.beat(time.monotonic_ns(), time.monotonic_ns(), synced=True)
    assert f"and {claim}" in cli("explain", "m", "--area", area).out


def test_explain_says_that_the_appmodel_is_being_deleted(cli: Cli, area: str) -> None:
    app = App("sdkApp", "v1", "east", "sdkapp", "east/sdkapp", (("model1", "v-1"),), deleting="2026-01-04T00:00:00Z")
    route = RouteRow("model1", "v-1", "sdkApp", "v1", "east", "sdkapp")
    with Publisher(area) as publisher:
        publisher.publish({(int(Kind.MODEL), "model1"): encode(route), (int(Kind.APP), "sdkApp"): encode((app,))})
        publisher.control.beat(time.monotonic_ns(), time.monotonic_ns(), synced=True)
    assert "is being deleted since 2026-01-04T00:00:00Z" in cli("explain", "model1", "--area", area).out


def test_control_characters_of_names_do_not_reach_the_terminal(cli: Cli, area: str) -> None:
    routes = Routes(area)
    routes.set({"bad\x1b[31m\u202e": Answer(app="app\x9b")})
    try:
        for command in (("get", "models"), ("get", "models", "-o", "name"), ("get", "models", "-o", "json")):
            out = cli(*command, "--area", area).out
            assert "bad" in out
            assert not {"\x1b", "\x9b", "\u202e"} & set(out), command
    finally:
        routes.close()


def test_status_before_the_first_snapshot_names_what_the_watcher_waits_for(cli: Cli, area: str) -> None:
    status = waiting_status(area, "appmodels", "backing-off", "403 Forbidden: no right to list")
    with Publisher(area) as publisher:
        publisher.control.beat(time.monotonic_ns(), 0, synced=False)
        publisher.control.store_status(encode_status(status))
        for command in (
            ("status",),
            ("wait", "--timeout", "0"),
            ("explain", "model1"),
            ("resolve", "model1"),
            ("get", "models"),
            ("get", "models", "-w"),
        ):
            answered = cli(*command, "--area", area)
            assert answered.code == 7
            assert "no right to list" in answered.out + answered.err, command


def test_status_after_an_orderly_end_does_not_call_the_watcher_alive(cli: Cli, area: str, tmp_path: Path) -> None:
    process = start("watch", "--manifests", str(tmp_path), "--area", area)
    try:
        assert cli("wait", "--area", area).code == 0
        # The status follows the first snapshot within a second.
        until(lambda: "no AppModel matches; check namespace, label selector" in cli("status", "--area", area).out, "it")
        doctor = cli("doctor", "--area", area).out
        assert f"{tmp_path}: the folder holds no manifest" in doctor, "the folder that the area's watcher follows"
        assert "no cluster is configured" not in doctor
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_SECONDS)
    out = cli("status", "--area", area).out
    assert "the watcher has ended" in out
    assert "alive" not in out
    assert "thread" not in out, "threads that ended by the stop have not failed"
    assert str(tmp_path) in out
