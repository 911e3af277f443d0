"""The set-up of the demo: a folder of manifests, and pods that answer on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

NAMESPACE: Final = "demo"
MODELS_PER_APP: Final = 10
MOVING: Final = "iiot_dataservice"


class Pod:
    """One pod's stand-in: an HTTP server on a loopback port that answers with its name, once it is started."""

    def __init__(self, name: str) -> None:
        self.name = name

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = name.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more; requests under way are finished."""
        self._server.shutdown()
        self._server.server_close()


class Folder:
    """The folder of manifests; every write is atomic, as a kubelet's or an editor's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_fleet(self, models: int) -> None:
        """Write AppModels with `models` models, ten in each app: most of the table."""
        apps = [
            _appmodel(
                f"fleet-{first // MODELS_PER_APP}",
                f"fleet_{first // MODELS_PER_APP}",
                "v1",
                [f"model_{number}" for number in range(first, min(first + MODELS_PER_APP, models))],
            )
            for first in range(0, models, MODELS_PER_APP)
        ]
        self._write("fleet.json", {"apiVersion": "v1", "kind": "List", "items": apps})

    def write_owner(self, app: str, version: str) -> None:
        """Make `app` serve the model that moves."""
        self._write("iiot.json", _appmodel("iiot", app, version, [MOVING]))

    def write_pods(self, pods: Iterable[tuple[Pod, bool]]) -> None:
        """Write the slice of the app's Service: each pod, and whether it is ready or terminating."""
        endpoints = [
            {
                "addresses": ["127.0.0.1"],
                "conditions": {"ready": ready, "serving": True, "terminating": not ready},
                "targetRef": {"kind": "Pod", "name": pod.name},
                "port": pod.port,
            }
            for pod, ready in pods
        ]
        slices = [
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"iiot-{endpoint['port']}",
                    "namespace": NAMESPACE,
                    "labels": {"kubernetes.io/service-name": "iiot"},
                },
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": endpoint.pop("port")}],
                "endpoints": [endpoint],
            }
            for endpoint in endpoints
        ]
        self._write("iiot-slices.json", {"apiVersion": "v1", "kind": "List", "items": slices})

    def _write(self, name: str, manifest: dict[str, Any]) -> None:
        temporary = self.path / f".{name}.new"
        temporary.write_text(json.dumps(manifest))
        temporary.replace(self.path / name)


def _appmodel(name: str, app: str, version: str, models: list[str]) -> dict[str, Any]:
    return {
        "apiVersion": "iidp.com/v1",
        "kind": "AppModel",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"iidp": "iidp"}},
        "spec": {"app": app, "version": version, "models": [{"name": model, "version": "v1"} for model in models]},
    }
