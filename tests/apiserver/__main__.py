"""The test API server as a process of its own, for demonstrations and benchmarks.

    python -m tests.apiserver --port 0 --kubeconfig kubeconfig --models 1000

Prints its URL, serves until SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from .samples import app_models
from .server import ApiServer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.apiserver")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--token", default="test-token")
    parser.add_argument("--kubeconfig", type=Path, help="write a kubeconfig here")
    parser.add_argument("--load", type=Path, action="append", default=[], help="YAML to apply")
    parser.add_argument("--models", type=int, default=0, help="AppModels to start with")
    parser.add_argument("--no-crd", action="store_true", help="without the AppModel definition")
    parser.add_argument("--rate", type=float, default=0.0, help="change so many of the --models per second")
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ApiServer(
        host=arguments.host,
        port=arguments.port,
        token=arguments.token,
        crd=not arguments.no_crd,
    ) as api:
        for path in arguments.load:
            api.load(path)
        api.preload(app_models(arguments.models))
        if arguments.kubeconfig:
            api.kubeconfig(arguments.kubeconfig)
        print(api.url, flush=True)
        if arguments.rate > 0 and arguments.models:
            _storm(api, arguments.models, arguments.rate, stop)
        stop.wait()


def _storm(api: ApiServer, models: int, rate: float, stop: threading.Event) -> None:
    """Change one model after the other until stopped."""
    version = 1
    while not stop.is_set():
        version += 1
        for obj in app_models(models, version=f"v{version}"):
            if stop.wait(1.0 / rate):
                return
            api.apply(obj)


if __name__ == "__main__":
    main()
