"""An exec plugin whose script the test writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

API_VERSION = "client.authentication.k8s.io/v1"


class Plugin:
    """A plugin that does what a test writes: a shell script that runs `answer`, and counts its runs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "plugin"
        self.runs_file = folder / "runs"
        self.info_file = folder / "info"
        self.runs_file.touch()

    def does(self, script: str) -> None:
        # Written beside and renamed: a script that runs cannot be overwritten.
        new = self.path.with_suffix(".new")
        new.write_text(
            f'#!/bin/sh\necho $$ >> {self.runs_file}\necho "$KUBERNETES_EXEC_INFO" > {self.info_file}\n{script}\n'
        )
        new.chmod(0o755)
        new.rename(self.path)

    def gives(self, **status: Any) -> None:
        self.does(f"cat <<'END'\n{credential(**status)}\nEND")

    @property
    def runs(self) -> int:
        return len(self.pids())

    def pids(self) -> list[int]:
        return [int(line) for line in self.runs_file.read_text().split()]

    def config(self, **more: Any) -> dict[str, Any]:
        return {"exec": {"apiVersion": API_VERSION, "command": str(self.path), "interactiveMode": "Never", **more}}


def credential(api_version: str = API_VERSION, kind: str = "ExecCredential", **status: Any) -> str:
    return json.dumps({"apiVersion": api_version, "kind": kind, "status": status})
