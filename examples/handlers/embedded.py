"""A program of one's own that runs the watcher and is called for every AppModel."""

from __future__ import annotations

import sys

from shmroute import resolve
from shmroute.watcher import AppModel, Watcher, WatchOptions


class Printer:
    def on_add(self, appmodel: AppModel) -> None:
        print(f"add {appmodel.key}")

    def on_update(self, old: AppModel, new: AppModel) -> None:
        print(f"{'resync' if new is old else 'update'} {new.key}")

    def on_delete(self, appmodel: AppModel) -> None:
        print(f"delete {appmodel.key}")


def main(folder: str, model: str) -> None:
    with Watcher(WatchOptions(manifests=folder), handlers=[Printer()]) as watcher:
        watcher.wait_synced(30)
        print(f"{model} is served by {resolve(model).app}")


if __name__ == "__main__":
    main(*sys.argv[1:])
