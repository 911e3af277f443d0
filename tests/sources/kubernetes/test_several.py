"""Several namespaces as one source: a complete first list, then changes, and the worst namespace's state."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from shmroute.errors import ConfigError
from shmroute.kube.connection import Connection
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS
from shmroute.sources.base import Deleted, Replaced, Resync
from shmroute.sources.kubernetes.several import SeveralNamespaces
from shmroute.sources.kubernetes.source import KubernetesSource
from shmroute.watcher.build import build
from shmroute.watcher.options import NAMESPACES_MAX, WatchOptions
from tests.apiserver import ApiServer, app_model
from tests.sources.kubernetes.following import CALM, Following

NAMESPACES = ("a", "b", "c")


def follow(connection: Connection, resync_seconds: float = 0.0) -> Following:
    """Follows three namespaces."""
    made = Following(connection)
    made.source = SeveralNamespaces(  # type: ignore[assignment]
        {
            name: KubernetesSource(connection, APPMODELS, namespace=name, resync_seconds=resync_seconds, timing=CALM)
            for name in NAMESPACES
        }
    )
    made.thread = threading.Thread(target=made.source.run, args=(made, made.stop), daemon=True)
    return made


@pytest.fixture
def filled(api: ApiServer) -> ApiServer:
    for name in (*NAMESPACES, "other"):
        api.apply(app_model("one", namespace=name))
    return api


def keys(*names: str) -> set[ObjectKey]:
    return {ObjectKey(*name.split("/")) for name in names}


def test_no_event_is_sent_before_the_last_namespace_is_listed(filled: ApiServer, connection: Connection) -> None:
    filled.auth.forbid("list,watch", namespaces="c")
    with follow(connection) as three:
        three.wait(lambda: "c: not allowed" in three.reason)
        filled.wait_until(lambda: filled.open_watches() >= 2)
        filled.apply(app_model("early", namespace="a"))
        filled.delete("appmodels", "one", "b")
        three.stop.wait(0.2)
        assert three.of(Replaced) == []
        assert three.contact_ns == 0
        # Namespace c is tried again and again, and listed for a moment each time.
        three.wait(lambda: three.state is not None and three.state.phase == "backing-off")

        filled.auth.permit()
        three.wait(lambda: three.items.keys() == keys("a/one", "a/early", "c/one"))
        assert len(three.of(Replaced)) == 1
        three.wait(lambda: three.reason == "" and three.contact_ns > 0)


def test_only_the_watched_namespaces_are_requested(filled: ApiServer, connection: Connection) -> None:
    with follow(connection) as three:
        three.wait(lambda: three.items.keys() == keys("a/one", "b/one", "c/one"))
        filled.apply(app_model("two", namespace="b"))
        filled.delete("appmodels", "one", "c")
        filled.apply(app_model("two", namespace="other"))

        three.wait(lambda: three.items.keys() == keys("a/one", "b/one", "b/two"))
        assert {request.namespace for request in filled.requests} == set(NAMESPACES)
        assert [source.stats.lists for source in three.source._sources.values()] == [1, 1, 1]  # type: ignore[attr-defined]


def test_a_new_list_of_one_namespace_leaves_the_others_as_they_are(filled: ApiServer, connection: Connection) -> None:
    with follow(connection) as three:
        three.wait(lambda: three.items.keys() == keys("a/one", "b/one", "c/one"))
        filled.wait_for_watches(3)
        filled.faults.refuse()
        filled.delete("appmodels", "one", "b")
        filled.apply(app_model("three", namespace="c"))
        filled.faults.compact()
        filled.faults.accept()

        three.wait(lambda: three.items.keys() == keys("a/one", "c/one", "c/three"))
        assert len(three.of(Replaced)) == 1
        assert [event.key for event in three.of(Deleted)] == [ObjectKey("b", "one")]


def test_a_resync_of_several_namespaces_is_one_event(filled: ApiServer, connection: Connection) -> None:
    with follow(connection, resync_seconds=0.2) as three:
        three.wait(lambda: len(three.of(Resync)) >= 2)
        counts = [source.stats.lists for source in three.source._sources.values()]  # type: ignore[attr-defined]

        assert counts == [1, 1, 1]


def test_the_end_of_one_namespaces_source_ends_all(filled: ApiServer, connection: Connection) -> None:
    three = follow(connection)
    several = three.source
    broken: list[BaseException] = []

    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    several._sources["b"].run = fail  # type: ignore[attr-defined]

    def run() -> None:
        try:
            several.run(three, three.stop)
        except RuntimeError as error:
            broken.append(error)

    with contextlib.suppress(RuntimeError):
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(10.0)
    three.stop.set()
    assert [str(error) for error in broken] == ["source of b: RuntimeError: a defect"]


# -- options


@pytest.mark.parametrize(
    "name", [" a", "a\n", "Meta-Test", "*", "", "a b", "-a", "a-", "a_b", "a.b", "ä", "x" * 64, "a,b", "\u0661"]
)
def test_an_impossible_namespace_name_is_refused(api: ApiServer, tmp_path: Path, name: str) -> None:
    kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))

    with pytest.raises(ConfigError, match="not a namespace's name"):
        build(WatchOptions(area="never", kubeconfig=kubeconfig, namespaces=("good", name)))


def test_too_many_namespaces_are_refused(api: ApiServer, tmp_path: Path) -> None:
    names = tuple(f"n{number}" for number in range(NAMESPACES_MAX + 1))
    kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))

    with pytest.raises(ConfigError, match="watch all by -A"):
        build(WatchOptions(area="never", kubeconfig=kubeconfig, namespaces=names))


def test_a_folder_takes_one_namespace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--manifests takes one -n"):
        build(WatchOptions(area="never", manifests=str(tmp_path), namespaces=("a", "b")))


@pytest.mark.parametrize("seconds", [-1.0, 0.5, 4.9, 300.5, float("nan"), float("inf")])
def test_a_probe_period_out_of_bounds_is_refused(api: ApiServer, tmp_path: Path, seconds: float) -> None:
    kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))

    with pytest.raises(ConfigError, match="give a number from 5 to 300, or off"):
        build(WatchOptions(area="never", kubeconfig=kubeconfig, probe_seconds=seconds))


def test_a_new_list_of_all_namespaces_is_one_complete_list(filled: ApiServer, connection: Connection) -> None:
    with follow(connection) as three:
        three.wait(lambda: three.items.keys() == keys("a/one", "b/one", "c/one"))
        filled.wait_for_watches(3)
        three.source.relist("returned")
        three.wait_replaced(2)
        assert three.items.keys() == keys("a/one", "b/one", "c/one")
        assert three.of(Deleted) == []
