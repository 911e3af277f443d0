"""Writers and readers whose rows must agree: every row of a generation carries one stamp.

The stamp is the generation a row was published in. Generations without rows of their own exist (they seal a segment),
so at generation g the stamp is g, or g - 1.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import msgspec

from shmroute.rows import Kind, encode
from shmroute.shm.names import DIRECTORY
from shmroute.shm.reader import RowReader
from shmroute.shm.writing import publisher as publishing
from shmroute.shm.writing.publisher import Publisher
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route
from tests.forks import Pipe

ROWS = 40

MODELS = [f"model-{number}" for number in range(ROWS)]

BIG_BYTES = 100_000
"""Size of a value that fits into no log here, so that its generation is a new base."""


_decode = msgspec.msgpack.Decoder(Route).decode


def small_logs() -> None:
    """Make the writer begin a new base about every tenth generation. Call this in a child: it is never undone."""
    publishing.MIN_LOG_BYTES = 16 * 1024  # type: ignore[misc]


def stamped(stamp: int) -> dict[tuple[int, str], bytes | None]:
    """Return a table in which every model's row carries the stamp, as the route's version."""
    return {(Kind.MODEL, model): encode(Route(model, str(stamp), "app", "v1", "ns", "app")) for model in MODELS}


def publish_stamped(publisher: Publisher) -> None:
    """Publish one generation; every 25th is a whole new table."""
    stamp = publisher.generation + 1
    rows = stamped(stamp)
    if stamp % 25 == 0:
        rows[99, "big"] = os.urandom(8) + bytes(BIG_BYTES)
    elif stamp % 25 == 1:
        rows[99, "big"] = None
    publisher.publish(rows)


def publish_for_ever(pipe: Pipe, area: str) -> None:
    """Publish at full rate until this process is killed."""
    small_logs()
    publisher = Publisher(area)
    publish_stamped(publisher)
    pipe.send("at work")
    while True:
        publish_stamped(publisher)


def check_stamps(reader: RowReader) -> int:
    """Return the stamp that all rows at the reader's generation carry.

    Raises:
        AssertionError: they do not, or it is of another generation.
    """
    rows = {key: value for kind, key, value in reader.rows(Kind.MODEL)}
    assert rows.keys() == set(MODELS)
    assert rows == {model: reader.get(Kind.MODEL, model) for model in MODELS}
    versions = {_decode(value).version for value in rows.values()}
    assert len(versions) == 1, f"a mixture at generation {reader.generation}: {sorted(versions)}"
    stamp = int(versions.pop())
    assert reader.generation - 1 <= stamp <= reader.generation
    return stamp


class Usage:
    """Resources that this process holds, to compare them later."""

    def __init__(self, area: str) -> None:
        self.descriptors = len(list(Path("/proc/self/fd").iterdir()))
        self.mappings = Path("/proc/self/maps").read_text().count(f"/dev/shm/shmroute-{area}")
        self.resident_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def __repr__(self) -> str:
        return f"{self.descriptors} descriptors, {self.mappings} mappings, {self.resident_bytes} bytes resident"


def look_up(pipe: Pipe, area: str, times: int) -> None:
    """Check every look-up against the reader's generation. Sends memory and CPU use at the start and at the end."""
    gc.collect()  # what a fork has inherited of earlier tests must not go between the two measurements
    reader = Reader(area)
    reader.wait_ready(30.0)
    resolve = reader.resolve
    stamps: dict[int, str] = {}
    done = 0
    early = None
    while done < times:
        for model in MODELS:
            version = resolve(model).version
            rows = reader._position.current
            assert rows is not None
            held = rows.generation
            stamp = stamps.get(held)
            if stamp is None:
                assert not stamps or held > max(stamps)
                assert int(version) in (held, held - 1), f"{version} at generation {held}"
                stamps = {held: version}
            else:
                assert version == stamp, f"{version} and {stamp} at generation {held}"
        done += ROWS
        if early is None and done >= times // 10:
            early = Usage(area)
    assert reader.fault is None
    pipe.send((early, Usage(area), reader.generation))


def taken_bytes() -> int:
    """Return the bytes of /dev/shm in use. Meaningful only in a mount namespace of one's own."""
    status = os.statvfs(DIRECTORY)
    return (status.f_blocks - status.f_bfree) * status.f_frsize
