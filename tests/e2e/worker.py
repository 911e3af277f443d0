"""A worker process: resolves its models in a loop, and reports its answers on request (a line on standard input).

An error other than ModelNotFound, a generation that falls, or an answer that names another model is kept and told.
"""

from __future__ import annotations

import json
import sys
import threading

from shmroute import ModelNotFound, NotReady, Reader, Route

LOOK_SECONDS = 0.01
"""Seconds between two rounds of look-ups, also before there is a snapshot: they leave CPU time for the watcher."""


def main(area: str, models: list[str]) -> None:
    reader = Reader(area)
    errors: list[str] = []
    looks = [0]
    stop = threading.Event()

    def look() -> None:
        generation = 0
        while not stop.wait(LOOK_SECONDS):
            for model in models:
                try:
                    route = reader.resolve(model)
                    if route.model != model:
                        errors.append(f"{model}: {route}")
                except (ModelNotFound, NotReady):
                    pass
                except Exception as error:  # noqa: BLE001 - whatever it is, the test shall see it
                    errors.append(repr(error))
                looks[0] += 1
            try:
                now = reader.generation
            except NotReady:
                continue
            if now < generation:
                errors.append(f"generation {now} after {generation}")
            generation = now

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    for _ in sys.stdin:
        seen: dict[str, list[str] | None] = {}
        for model in models:
            route: Route | None = reader.get(model)
            seen[model] = [route.app, route.app_version, route.version] if route else None
        print(
            json.dumps({"seen": seen, "generation": reader.generation, "looks": looks[0], "errors": errors}), flush=True
        )
    stop.set()
    thread.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
