"""The jobs of a worker process; each tells its result as JSON lines. Run by `benchmarks.processes`.

Imports nothing at the top but the standard library's core: what a job costs must be its own.
"""

import resource
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def private_bytes() -> int:
    """Return the private memory of this process."""
    with open("/proc/self/smaps_rollup") as file:  # noqa: PTH123 - pathlib is not imported here
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))


def tell(**answer: object) -> None:
    """One line of JSON."""
    import json

    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def usage() -> dict[str, float]:
    """CPU seconds and resident bytes of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/status") as file:  # noqa: PTH123 - pathlib is not imported here
        resident = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    return {"cpu": used.ru_utime + used.ru_stime, "rss": resident}


def attach(area: str) -> None:
    from shmroute import Reader

    before = private_bytes()
    reader = Reader(area)
    started = time.perf_counter()
    reader.attach()
    seconds = time.perf_counter() - started
    tell(seconds=seconds, bytes=private_bytes() - before)


def touch(area: str, file: str) -> None:
    from pathlib import Path

    import msgspec

    from shmroute import Reader

    names = msgspec.msgpack.decode(Path(file).read_bytes(), type=list[str])
    before = private_bytes()
    reader = Reader(area)
    for name in names:
        reader.resolve(name)
    tell(bytes=private_bytes() - before)


def remember(area: str, file: str) -> None:
    """Look every model up, in no order, by a str that nobody else keeps, and tell the bytes for each route."""
    import random
    from pathlib import Path

    import msgspec

    from shmroute import Reader

    names = msgspec.msgpack.decode(Path(file).read_bytes(), type=list[bytes])
    random.Random(8).shuffle(names)
    reader = Reader(area, memo_rows=len(names))
    reader.attach()
    before = private_bytes()
    for name in names:
        reader.resolve(name.decode())
    tell(bytes=(private_bytes() - before) / len(names))


def dict_(file: str) -> None:
    from pathlib import Path

    import msgspec

    from shmroute.worker.routes import Route

    decode = msgspec.msgpack.Decoder(Route).decode
    table = msgspec.msgpack.decode(Path(file).read_bytes(), type=dict[str, bytes])
    names = list(table)
    before = private_bytes()
    routes = {}
    for name in names:
        routes[name] = decode(table[name])
    tell(bytes=private_bytes() - before)


def first(area: str, model: str) -> None:
    from shmroute import Reader

    Reader(area).resolve(model)
    tell(**usage())


def bare(area: str, model: str) -> None:  # noqa: ARG001 - as `first`
    tell(**usage())


def rate(area: str) -> None:
    from shmroute import Reader
    from shmroute.rows import Kind
    from shmroute.shm.reader import RowReader

    names = [key for _, key, _ in RowReader(area).rows(Kind.MODEL)][:10_000]
    resolve = Reader(area).resolve
    for name in names:
        resolve(name)
    count = 0
    started = time.perf_counter()
    while time.perf_counter() - started < 1.0:
        for name in names:
            resolve(name)
        count += len(names)
    tell(rate=count / (time.perf_counter() - started))


def latency(area: str) -> None:
    """Seconds a look-up, in batches of 100, for a second."""
    from shmroute import Reader
    from shmroute.rows import Kind
    from shmroute.shm.reader import RowReader

    names = [key for _, key, _ in RowReader(area).rows(Kind.MODEL)][:100]
    resolve = Reader(area).resolve
    for name in names:
        resolve(name)
    batches = []
    clock = time.perf_counter
    end = clock() + 1.0
    while (started := clock()) < end:
        for name in names:
            resolve(name)
        batches.append((clock() - started) / len(names))
    tell(batches=batches[:: max(1, len(batches) // 5000)])


def follow(area: str, model: str) -> None:
    """Tell each new version of a model, and when it was seen (monotonic nanoseconds)."""
    from shmroute import Reader

    reader = Reader(area)
    reader.wait_ready(60)
    version = ""
    while True:
        seen = reader.resolve(model).app_version
        if seen != version:
            version = seen
            tell(version=version, at=time.monotonic_ns())
        time.sleep(0.0002)


def tenant_type() -> "type[object]":
    """Return the value of a row: `benchmarks.tables.Tenant`."""
    import msgspec

    fields = [("code", str), ("quota", int), ("team", str), ("hosts", list[str])]
    return msgspec.defstruct("Tenant", fields)


def table(area: str, file: str) -> None:
    from pathlib import Path

    import msgspec

    from shmroute import Reader

    names = msgspec.msgpack.decode(Path(file).read_bytes(), type=list[str])
    before = private_bytes()
    tenants = Reader(area).table("tenants", tenant_type())
    for name in names:
        tenants[name]
    tell(bytes=private_bytes() - before)


def storm(area: str, changes: str) -> None:
    """Tells once it follows the table `calm`, and after its last change how late each was seen, in seconds."""
    from shmroute import Reader

    calm = Reader(area).table("calm")
    calm.wait_ready(60.0)
    tell(ready=True)
    late = []
    seen = 0
    while seen < int(changes):
        row = calm["o0"]
        if row["v"] != seen:
            seen = row["v"]
            late.append((time.monotonic_ns() - row["ns"]) / 1e9)
        time.sleep(0.0005)
    tell(late=late)


def objects(file: str) -> None:
    from pathlib import Path

    import msgspec

    decode = msgspec.msgpack.Decoder(tenant_type()).decode
    bodies = msgspec.msgpack.decode(Path(file).read_bytes(), type=dict[str, bytes])
    before = private_bytes()
    kept = {}
    for name in list(bodies):
        kept[name] = decode(bodies[name])
    tell(bytes=private_bytes() - before)


def informers(kubeconfig: str, tables: str, objects: str, changes: str) -> None:
    """One informer for each table, as the official client has it: list, watch, a dict. Tells after the lists, and
    after that many events."""
    import threading
    from typing import Any

    from kubernetes import client, config, watch

    load: Any = config.load_kube_config
    load(kubeconfig)
    api: Any = client.CustomObjectsApi()
    watching: Any = watch.Watch
    lock = threading.Lock()
    kept: dict[tuple[str, str], Any] = {}
    events = threading.Semaphore(0)
    listed = threading.Semaphore(0)

    def inform(plural: str) -> None:
        first = api.list_cluster_custom_object("example.com", "v1", plural)
        with lock:
            kept.update({(plural, item["metadata"]["name"]): item for item in first["items"]})
        version = first["metadata"]["resourceVersion"]
        del first
        listed.release()
        arguments = ("example.com", "v1", plural)
        for event in watching().stream(api.list_cluster_custom_object, *arguments, resource_version=version):
            with lock:
                kept[plural, event["object"]["metadata"]["name"]] = event["object"]
            events.release()

    for number in range(int(tables)):
        threading.Thread(target=inform, args=(f"t{number}s",), daemon=True).start()
    for semaphore, count in ((listed, int(tables)), (events, int(changes))):
        for _ in range(count):
            semaphore.acquire()
        with open("/proc/self/status") as file:  # noqa: PTH123 - as above
            resident = next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))
        tell(cpu=usage()["cpu"], rss=resident, kept=len(kept) == int(tables) * int(objects))


JOBS: "dict[str, Callable[..., None]]" = {
    "attach": attach,
    "touch": touch,
    "remember": remember,
    "dict": dict_,
    "first": first,
    "bare": bare,
    "rate": rate,
    "latency": latency,
    "follow": follow,
    "table": table,
    "storm": storm,
    "objects": objects,
    "informers": informers,
}

if __name__ == "__main__":
    JOBS[sys.argv[1]](*sys.argv[2:])
