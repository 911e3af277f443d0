"""A worker process that reads models' metadata; commands come on standard input, one word per line.

check    what was wrong so far: it looks all the time, and every value must belong to the version it stands under
touch    read every model's raw value once
memory   bytes of memory of its own, and its share of what it shares with others
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from shmroute import ModelNotFound, Reader


def main(area: str, models: list[str]) -> None:
    reader = Reader(area)
    errors: list[str] = []
    looks = [0]
    if len(models) < 100:
        threading.Thread(target=look, args=(reader, models, errors, looks), daemon=True).start()
    for line in sys.stdin:
        match line.strip():
            case "check":
                answer: object = {"errors": errors[:10], "looks": looks[0]}
            case "touch":
                answer = sum(len(reader.resolve(model).metadata_bytes or b"") for model in reader.models())
            case "resolve":
                answer = sum(reader.resolve(model).metadata_version is not None for model in reader.models())
            case _:
                answer = memory()
        print(json.dumps(answer), flush=True)


def look(reader: Reader, models: list[str], errors: list[str], looks: list[int]) -> None:
    while True:
        for model in models:
            try:
                route = reader.resolve(model)
            except ModelNotFound:
                continue
            value = route.metadata
            if value is not None and value["version"] != route.version:
                errors.append(f"{model}: {value} is given for version {route.version}")
            before = route.metadata_version
            value = route.last_metadata
            after = route.metadata_version
            if before == after and (None if value is None else value["version"]) != before:
                errors.append(f"{model}: {value} is given as the last value, of version {before}")
            looks[0] += 1
        time.sleep(0.0002)


def memory() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
