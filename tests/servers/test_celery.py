"""Celery's prefork pool through `shmroute run`, as docs/servers.md has a newcomer do it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.ports import free_port
from tests.processes import bound
from tests.redis_server import RedisServer
from tests.servers.page import command
from tests.servers.serving import WORKERS, example, serve
from tests.supervise.running import MODEL, Manifests

PUBLISHED_SECONDS = 30.0
"""Longest wait until a change is published, in seconds: from then on each process of the pool answers by it."""

TASKS = """

import time


@app.task
def where_and_wait(model, seconds):
    answer = where(model)
    time.sleep(seconds)
    return answer
"""
"""A task that takes a while, so that each process of the pool gets one of many."""

CLIENT = """
import json, os, pathlib, shmroute, sys, tasks, time
model, folder, seconds, apps = sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]

def ask():
    results = [tasks.where_and_wait.delay(model, 0.05) for _ in range(24)]
    return [result.get(timeout=60) for result in results]

ask()  # connections are open, and each process has looked up before
found = []
for app in apps:
    manifest = json.loads((folder / "iiot.json").read_text())
    manifest["spec"]["app"] = app
    (folder / ".new").write_text(json.dumps(manifest))
    (folder / ".new").replace(folder / "iiot.json")
    deadline = time.monotonic() + seconds
    while shmroute.resolve(model).app != app and time.monotonic() < deadline:
        time.sleep(0.005)
    found.append(ask())
print(json.dumps(found))
"""


def test_celery_pool_processes_see_a_change_and_leave_nothing(
    tmp_path: Path, area: str, manifests: Manifests, redis_server: RedisServer
) -> None:
    port = free_port()
    urls = {"CELERY_BROKER_URL": redis_server.url, "CELERY_RESULT_BACKEND": redis_server.url}
    folder = example(tmp_path, "celery")
    with (folder / "tasks.py").open("a") as file:
        file.write(TASKS)
    apps = [f"iiot{number}" for number in range(5)]
    with serve(
        command("Celery", port), folder, area, manifests, port=port, environment=urls, answering=False
    ) as server:
        client = bound([sys.executable, "-c", CLIENT, MODEL, str(manifests.path), str(PUBLISHED_SECONDS), *apps])
        found = json.loads(subprocess.check_output(client, cwd=folder, env=server.environment, timeout=90))
        for app, answers in zip(apps, found, strict=True):
            assert {answer["app"] for answer in answers} == {app}
            assert len({answer["worker"] for answer in answers}) == WORKERS
        assert server.end(signal.SIGTERM) == 0
