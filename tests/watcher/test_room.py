"""The sizes of the shares, and the room for metadata."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from shmroute.errors import ConfigError
from shmroute.metadata.scheduler import MetadataRead, MetadataRequest
from shmroute.rows import Kind, MetadataRow, MetadataState, RouteRow, RowKey, encode
from shmroute.tables import Crowded, Room
from shmroute.tables.shares import Share
from shmroute.watcher.build import build
from shmroute.watcher.metadata_feed import MetadataFeed
from shmroute.watcher.options import WatchOptions
from shmroute.watcher.room import area_room, check_share, words_of

MIB = 1024 * 1024


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the area's folder appear as one of 31 MiB, ten of them for rows."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=31 * 256, f_frsize=4096))


@pytest.mark.usefixtures("small")
def test_a_share_is_a_fraction_of_the_areas_size() -> None:
    room = area_room(40.0, several_namespaces=True, metadata=True, tables=2)
    assert room == Room(
        routes=Share.of_bytes(2 * MIB),
        endpoints=Share.of_bytes(MIB // 2),
        metadata=MIB,
        metadata_in_all=5 * MIB,
        table=Share.of_bytes(MIB // 4),
    )
    assert Share.of_bytes(2 * MIB) == (2048, 20_971, 2 * MIB)
    assert area_room(40.0, several_namespaces=True, metadata=False, tables=0).routes == Share.of_bytes(
        4 * (4 * MIB // 5)
    )


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("percent", "several"), [(25.0, False), (100.0, True)])
def test_a_single_namespace_and_100_percent_have_no_limit(percent: float, several: bool) -> None:
    assert area_room(percent, several_namespaces=several, metadata=True, tables=1) == Room(metadata_in_all=5 * MIB)


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1, float("nan")])
def test_a_share_that_is_not_a_percentage_is_refused(percent: float, tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"--share .*from 0\.1 to 100"):
        check_share(percent)
    with pytest.raises(ConfigError, match="--share"):
        build(WatchOptions(manifests=str(tmp_path), share=percent))


def test_a_status_names_a_bounded_number_of_namespaces() -> None:
    words = list(words_of([Crowded(f"ns{n:02}", "routes", n + 1) for n in range(30)]))
    assert len(words) == 11
    assert words[0] == "no room for 30 of namespace 'ns29' (routes): its --share is taken"
    assert words[-1] == f"no room for {sum(range(1, 21))} of other namespaces"


class Fed:
    """A feed whose values come from the test."""

    def __init__(self, room: Room) -> None:
        self.requests: list[MetadataRequest] = []
        self.feed = MetadataFeed(cast("Any", self), room=room)
        self.table: dict[RowKey, bytes | None] = {}

    def request(self, wanted: list[MetadataRequest]) -> None:
        self.requests += wanted

    def forget(self, models: object) -> None: ...

    def retry_failed(self) -> None: ...

    def want(self, namespace: str, model: str, version: str = "1") -> None:
        row = encode(RouteRow(model, version, "app", "1", namespace, "am")) if version else None
        self.table.update(self.feed.follow({(Kind.MODEL, model): row}, self.table.get))

    def read(self, size: int) -> None:
        """Answer the newest requests as the store would."""
        request = self.requests.pop()
        read = MetadataRead(request.row, request.ticket, MetadataState.LOADED, 1.0, b"x" * size, "")
        self.table.update(self.feed.settle([read], self.table.get))

    def row(self, namespace: str, model: str) -> MetadataRow:
        return msgspec.msgpack.decode(self.table[Kind.METADATA, f"{namespace}/{model}"] or b"", type=MetadataRow)


def test_values_beyond_the_share_wait_until_there_is_room() -> None:
    fed = Fed(Room(metadata=2_000, metadata_in_all=3_000))
    for model in ("a", "b"):
        fed.want("evil", model)
        fed.read(800)
    fed.want("evil", "c")
    fed.read(800)
    row = fed.row("evil", "c")
    assert (row.state, row.value) == (MetadataState.TOO_LARGE, None)
    assert row.reason == "no room: the metadata of namespace 'evil' may take 2,000 bytes (--share)"
    assert fed.feed.crowded == [Crowded("evil", "metadata", 1)]

    fed.want("mine", "d")
    fed.read(800)
    assert fed.row("mine", "d").value == b"x" * 800, "the others have room"
    fed.want("mine", "e")
    fed.read(800)
    assert fed.row("mine", "e").reason.startswith("no room: metadata may take 3,000 bytes in all")

    fed.feed.retry_failed()
    assert fed.requests == [], "not read again while there is no room"
    fed.want("evil", "a", "")
    fed.feed.retry_failed()
    assert [request.key for request in fed.requests] == ["app_c"]
    fed.read(800)
    assert fed.row("evil", "c").state == MetadataState.LOADED
    assert fed.feed.crowded == [Crowded("mine", "metadata", 1)]


def test_a_value_that_grows_beyond_the_share_leaves_the_old_one_in_place() -> None:
    fed = Fed(Room(metadata=1_000))
    fed.want("ns", "a")
    fed.read(500)
    fed.want("ns", "a", "2")
    fed.read(2_000)
    row = fed.row("ns", "a")
    assert (row.value, row.version, row.wanted) == (b"x" * 500, "1", "2")
    assert row.state == MetadataState.TOO_LARGE
    fed.want("ns", "a", "3")
    fed.read(600)
    assert fed.row("ns", "a").value == b"x" * 600
    fed.want("ns", "a", "")
    assert fed.feed.crowded == []
    assert fed.feed._values._sum == 0
