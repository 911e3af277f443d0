"""Every command and snippet of README and docs/ does what the page says, in the order of the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.apiserver import ApiServer
from tests.docs.pages import ROOT, blocks, pages, script
from tests.ports import free_port
from tests.processes import bound
from tests.redis_server import RedisServer

PAGE_SECONDS = 100

PORTS = ("9901", "8000")
"""Ports on the pages, replaced by free ones here, since they may be in use."""


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_snippets_of_a_page_run_in_order(page: Path, tmp_path: Path, area: str, redis_server: RedisServer) -> None:
    with ApiServer() as api:
        kubeconfig = tmp_path / "kubeconfig"
        api.kubeconfig(kubeconfig)
        home = tmp_path / "home"
        home.mkdir()
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "KUBECONFIG": str(kubeconfig),
            "SHMROUTE_AREA": area,
            "REDIS_URL": redis_server.url,
            **{name: value for name, value in os.environ.items() if name.startswith(("SHMROUTE_TEST", "PYTHON"))},
        }
        folder = tmp_path / "page"
        folder.mkdir()
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / "deploy").symlink_to(ROOT / "deploy")
        commands = script(page)
        for port in PORTS:
            commands = commands.replace(port, str(free_port()))
        finished = subprocess.run(
            bound(["bash", "-c", commands]),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PAGE_SECONDS,
        )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_snippet_that_is_not_run_gives_its_reason() -> None:
    left_out = [block for page in pages() for block in blocks(page) if block.why]
    assert all(len(block.why) > 10 for block in left_out)
    assert len(left_out) <= 10, "so few that each can be read"
