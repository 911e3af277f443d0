"""AppModel -> watcher -> shared memory -> resolve, with real processes, against every configured cluster."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from shmroute import ModelNotFound
from tests.cluster import Cluster
from tests.e2e.running import appmodel, ready, shmroute, until, watcher, workers

WORKERS = 8


def example(version: str = "v1", model2: str = "v-2") -> dict[str, Any]:
    """Return the platform's documented example."""
    return appmodel("newsdkapp", "newSdkApp", version, {"model1": "v-1", "model2": model2, "model3": "v-3"})


def test_the_documented_example_is_applied_watched_and_resolved_by_command(cluster: Cluster, area: str) -> None:
    where = ("--kubeconfig", str(cluster.kubeconfig))
    shmroute("crd", "install", *where)
    assert shmroute("crd", "install", *where).stdout.strip().endswith("unchanged")
    models = [f"--model=model{number}=v-{number}" for number in (1, 2, 3)]
    applied = shmroute("apply", "newSdkApp", "--version", "v1", *models, "-n", cluster.namespace, *where)
    assert applied.stdout.strip() == "appmodel.iidp.com/newsdkapp created"
    with watcher(cluster, area):
        shmroute("wait", "--area", area)
        answer = json.loads(shmroute("resolve", "model2", "--area", area, "-o", "json").stdout)
        assert (answer["app"], answer["app_version"], answer["version"]) == ("newSdkApp", "v1", "v-2")
        missing = shmroute("resolve", "model9", "--area", area, check=False)
        assert missing.returncode == 5
        assert "model9" in missing.stderr
        shmroute("delete", "newsdkapp", "-n", cluster.namespace, *where)
        until(lambda: shmroute("resolve", "model2", "--area", area, check=False).returncode == 5, "withdrawal")


def test_every_worker_sees_a_change_a_removed_label_and_a_deletion(cluster: Cluster, area: str) -> None:
    cluster.apply(example())
    with watcher(cluster, area), workers(area, WORKERS, "model2") as team:
        ready(area)

        def all_see(wanted: list[str] | None) -> bool:
            return all(worker.ask()["seen"]["model2"] == wanted for worker in team)

        until(lambda: all_see(["newSdkApp", "v1", "v-2"]), "first answer")
        cluster.apply(example("v2", "v-9"))
        until(lambda: all_see(["newSdkApp", "v2", "v-9"]), "change")
        cluster.patch("AppModel", "newsdkapp", {"metadata": {"labels": {"iidp": None}}})
        until(lambda: all_see(None), "withdrawal by label")
        cluster.patch("AppModel", "newsdkapp", {"metadata": {"labels": {"iidp": "iidp"}}})
        until(lambda: all_see(["newSdkApp", "v2", "v-9"]), "return of the label")
        cluster.delete("AppModel", "newsdkapp")
        until(lambda: all_see(None), "withdrawal by deletion")
        assert [worker.ask()["errors"] for worker in team] == [[]] * WORKERS


def test_worker_resolving_all_models_agrees_with_the_server(cluster: Cluster, area: str) -> None:
    apps, models = 200, 10
    for number in range(apps):
        cluster.apply(
            appmodel(f"app-{number}", f"app_{number}", "v1", {f"m_{number}_{i}": f"v{i}" for i in range(models)})
        )
    with watcher(cluster, area):
        reader = ready(area)
        listed = cluster.list("AppModel", selector="iidp=iidp")
        assert len(listed) == apps
        for item in listed:
            for model in item["spec"]["models"]:
                route = reader.resolve(model["name"])
                spec = item["spec"]
                assert (route.app, route.app_version, route.version) == (spec["app"], spec["version"], model["version"])
        assert len(reader.models()) == apps * models


@pytest.mark.fault(23)
def test_killed_watcher_costs_no_error_and_generations_grow(cluster: Cluster, area: str) -> None:
    cluster.apply(example())
    with watcher(cluster, area) as first, workers(area, WORKERS, "model1", "model2") as team:
        reader = ready(area)
        before = reader.generation
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert all(worker.ask()["seen"]["model2"] == ["newSdkApp", "v1", "v-2"] for worker in team)
        cluster.apply(example("v2"))
        with watcher(cluster, area):
            until(lambda: all(worker.ask()["seen"]["model1"] == ["newSdkApp", "v2", "v-1"] for worker in team), "v2")
            told = [worker.ask() for worker in team]
            assert [each["errors"] for each in told] == [[]] * WORKERS
            assert all(each["generation"] > before for each in told)
            until(lambda: reader.synced, "sync of the new watcher")


@pytest.mark.fault(17)
def test_invalid_objects_are_listed_with_a_reason_and_all_else_is_served(cluster: Cluster, area: str) -> None:
    good = example()
    broken: dict[str, dict[str, Any]] = {
        "nospec": {**appmodel("nospec", "x", "v1", {}), "spec": None},
        "noapp": appmodel("noapp", "x", "v1", {"orphan": "v1"}),
        "twice": appmodel("twice", "twice", "v1", {"same": "v1"}),
        "large": appmodel("large", "large", "v1", {f"{number:04}" * 60: "v1" for number in range(2_500)}),
    }
    del broken["nospec"]["spec"]
    del broken["noapp"]["spec"]["app"]
    broken["twice"]["spec"]["models"] *= 2
    cluster.apply(good)
    for manifest in broken.values():
        _create(cluster, manifest)
    with watcher(cluster, area):
        reader = ready(area)
        assert reader.resolve("model2").app == "newSdkApp"
        listed = json.loads(shmroute("get", "invalid", "--area", area, "-o", "json").stdout)["items"]
        assert {item["name"] for item in listed} == set(broken)
        assert all(item["reason"] and not item["last_good"] for item in listed)
        with pytest.raises(ModelNotFound):
            reader.resolve("orphan")


def _create(cluster: Cluster, manifest: dict[str, Any]) -> None:
    """Create an object by POST, which keeps two equal model names that server-side apply might merge."""
    cluster.api.create_namespaced_custom_object("iidp.com", "v1", cluster.namespace, "appmodels", manifest)


def test_watch_ends_within_its_bound_on_sigterm_and_leaves_the_routes(cluster: Cluster, area: str) -> None:
    cluster.apply(example())
    with watcher(cluster, area) as process:
        reader = ready(area)
        process.terminate()
        assert process.wait(5) == 0
        assert reader.resolve("model1").app == "newSdkApp"
