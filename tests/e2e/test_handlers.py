"""`shmroute watch --handler` with the example that keeps app -> model -> metadata, against every cluster there is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import Cluster
from tests.docs.pages import ROOT
from tests.e2e.running import WAIT_SECONDS, appmodel, until
from tests.processes import bound
from tests.redis_server import RedisServer


def log_of(output: Path) -> Path:
    """Return the file for the log of the watcher whose handlers print to `output`."""
    return output.with_name("log")


@contextmanager
def watching(output: Path, redis: RedisServer, *options: str) -> Iterator[None]:
    environment = {**os.environ, "REDIS_URL": redis.url, "SHMROUTE_HANDLER": "relation:Relation broken:Broken"}
    folder = output.parent / "handlers"
    folder.mkdir()
    (folder / "relation.py").write_text((ROOT / "examples" / "handlers" / "relation.py").read_text())
    (folder / "broken.py").write_text(
        "class Broken:\n"
        "    def on_add(self, appmodel): raise RuntimeError('a defect')\n"
        "    on_update = lambda self, old, new: 1 / 0\n"
        "    on_delete = on_add\n"
    )
    # Apart: with PYTHONUNBUFFERED a line and its end are two writes, and the log of another thread may come between.
    with output.open("ab") as file, log_of(output).open("ab") as log:
        command = [sys.executable, "-m", "shmroute", "watch", "--resync", "1", *options]
        process = subprocess.Popen(bound(command), stdout=file, stderr=log, cwd=folder, env=environment)
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(WAIT_SECONDS) == 0


def test_handler_is_called_for_every_change_and_resync(
    cluster: Cluster, area: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    redis = redis_server.client()
    redis.set("newSdkApp_model1", "one")

    def lines(of: str) -> int:
        return output.read_text().splitlines().count(of) if output.exists() else 0

    where = ("--kubeconfig", str(cluster.kubeconfig), "--namespace", cluster.namespace, "--area", area)
    cluster.apply(appmodel("newsdkapp", "newSdkApp", "v1", {"model1": "v-1"}))
    with watching(output, redis_server, *where):
        until(lambda: lines("add newsdkapp"), "add")
        until(lambda: lines("read newSdkApp_model1 for v-1: b'one'"), "read")
        until(lambda: lines("resync newsdkapp") >= 2, "resync")
        redis_server.reset_stats()
        until(lambda: lines("resync newsdkapp") >= 4, "resync")
        assert "get" not in redis_server.commandstats(), "a resync reads nothing that is known"
        redis.set("newSdkApp_model1", "two")
        cluster.apply(appmodel("newsdkapp", "newSdkApp", "v1", {"model1": "v-2"}))
        until(lambda: lines("update newsdkapp"), "update")
        until(lambda: lines("read newSdkApp_model1 for v-2: b'two'"), "second read")
        cluster.delete("AppModel", "newsdkapp")
        until(lambda: lines("delete newsdkapp"), "delete")
        until(lambda: "a defect" in log_of(output).read_text(), "log of the broken handler")
    assert lines("read newSdkApp_model1 for v-1: b'one'") == 1


def test_embedding_example_prints_the_app_of_its_model(tmp_path: Path, area: str) -> None:
    (tmp_path / "a.json").write_text(
        '{"apiVersion": "iidp.com/v1", "kind": "AppModel", "metadata": {"name": "a"},'
        ' "spec": {"app": "appA", "version": "v1", "models": [{"name": "m", "version": "1"}]}}'
    )
    ended = subprocess.run(
        bound([sys.executable, str(ROOT / "examples" / "handlers" / "embedded.py"), str(tmp_path), "m"]),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        env={**os.environ, "SHMROUTE_AREA": area},
    )
    assert ended.returncode == 0, ended.stderr
    assert "m is served by appA" in ended.stdout
