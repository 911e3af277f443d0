"""Celery's prefork pool through `shmroute run`, as docs/servers.md has a newcomer do it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.processes import bound
from tests.redis_server import RedisServer
from tests.servers.page import command
from tests.servers.serving import WORKERS, example, free_port, serve
from tests.supervise.running import MODEL, Manifests

CLIENT = """
import sys, tasks
expected, workers = sys.argv[2], set()
while len(workers) < int(sys.argv[3]):
    results = [tasks.where.delay(sys.argv[1]) for _ in range(8)]
    answers = [result.get(timeout=60) for result in results]
    workers |= {answer["worker"] for answer in answers if answer["app"] == expected}
print(len(workers))
"""


def test_every_process_of_the_pool_sees_a_change_and_nothing_is_left(
    tmp_path: Path, area: str, manifests: Manifests, redis_server: RedisServer
) -> None:
    port = free_port()
    urls = {"CELERY_BROKER_URL": redis_server.url, "CELERY_RESULT_BACKEND": redis_server.url}
    folder = example(tmp_path, "celery")

    def workers_that_answer(app: str) -> int:
        client = bound([sys.executable, "-c", CLIENT, MODEL, app, str(WORKERS)])
        return int(subprocess.check_output(client, cwd=folder, env=server.environment, timeout=90))

    with serve(
        command("Celery", port), folder, area, manifests, port=port, environment=urls, answering=False
    ) as server:
        assert workers_that_answer("iiot") == WORKERS
        manifests.write("iiot2")
        assert workers_that_answer("iiot2") == WORKERS
        assert server.end(signal.SIGTERM) == 0
