"""The test API server answers as the recordings show: every one of them is replayed.

The server is brought into the state it had when a recording was made, by the same requests, with
the recorded times and uids; then the answer must be the recorded one, byte for byte. Headers that
change with every request are left out of the recordings and of the comparison.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import ApiServer, Settings, app_model, app_model_definition
from tests.apiserver.encoding import Object
from tests.apiserver.kinds import kind_of_definition
from tests.apiserver.rawhttp import RawExchange
from tests.apiserver.recordings import Recording, names, recording

CHANGING_HEADERS = ("Audit-Id:", "Date:")

APPMODELS = "/apis/iidp.com/v1/namespaces/wire/appmodels"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/wire/endpointslices"


class Clock:
    """The clock of the watches, set by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Story:
    """A server with the revisions, times and uids of the recorded one."""

    def __init__(self, progress: bool = True) -> None:
        self.clock = Clock()
        self.api = ApiServer(
            crd=False,
            revision=210,
            establish_after=None,
            progress=progress,
            settings=Settings(clock=self.clock),
        )
        self.api.auth.add_token("viewer-token", "viewer")
        self.api.auth.grant("viewer", "get", "services")

    def at(self, time: str, *uids: str) -> None:
        moment = datetime.strptime(f"2026-11-23T{time}", "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        self.api.writer.clock = lambda: moment
        remaining = iter(uids)
        self.api.writer.new_uid = lambda: next(remaining)

    def until(self, revision: int) -> None:
        """Write objects of other kinds until the server has this revision."""
        self.api.bump(revision - self.api.revision)

    def replay(self, name: str, token: str | None = None) -> RawExchange:
        request = recording(name).request
        secret = (token or self.api.auth.token).encode()
        return self.send(request.replace(b"<token>", secret))

    def send(self, request: bytes) -> RawExchange:
        return RawExchange("127.0.0.1", self.api.port, request)

    def request(self, method: str, target: str, body: Object | None = None, content_type: str = "") -> Object:
        """Return a request that was made but not recorded; without a User-Agent, as all of them."""
        data = json.dumps(body).encode() if body is not None else b""
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Authorization: Bearer {self.api.auth.token}\r\n"
            f"Content-Type: {content_type or 'application/json'}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        with self.send(head.encode() + data) as exchange:
            answer: Object = json.loads(exchange.body())
        assert exchange.code in (200, 201), answer
        return answer

    # The chapters, each beginning where the one before ended.

    def definition_applied(self) -> None:
        recorded = json.loads(recording("crd-get").body)
        annotations = recorded["metadata"]["annotations"]
        text = annotations["kubectl.kubernetes.io/last-applied-configuration"]
        definition = json.loads(text)
        definition["metadata"]["annotations"] = annotations
        self.at("19:04:22", recorded["metadata"]["uid"])
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        self.request("POST", f"{path}?fieldManager=kubectl-client-side-apply", definition)
        self.api.definitions.establish("appmodels.iidp.com")
        assert self.api.revision == 212

    def first_objects(self) -> None:
        """Make revisions 213 to 220, which the lists show."""
        self.definition_applied()
        self.until(213)
        self.api.faults.compact()
        items = {item["metadata"]["name"]: item for item in recorded_items("list-rv0")}
        order = ("iiot", "noapp", "nospec", "app-0", "app-1", "app-2")
        self.at("19:04:26", *(items[name]["metadata"]["uid"] for name in order))
        for name in ("apply-create", "create-without-app", "create-without-spec"):
            self.replay(name).close()
        self.api.requests.wait(4)
        self.api.wait_until(lambda: self.api.revision == 216)
        for index in range(3):
            models = {f"m_{index}_0": "v1", f"m_{index}_1": "v1"}
            obj = app_model(f"app-{index}", models, namespace="wire")
            self.request("POST", APPMODELS, obj)
        assert self.api.revision == 219
        self.until(220)
        # A list without resourceVersion brings the cache up to the storage's revision.
        self.request("GET", APPMODELS)

    def slices(self) -> None:
        """Make revisions 232 to 235: two EndpointSlices and a Service."""
        self.until(231)
        slices = recorded_items("endpointslices-list")
        self.at("19:04:41", *(each["metadata"]["uid"] for each in slices))
        for each in slices:
            metadata = {"name": each["metadata"]["name"], "labels": each["metadata"]["labels"]}
            self.request("POST", SLICES, {**each, "metadata": metadata})
        self.until(234)
        self.api.put(json.loads(recording("service-get").body))
        assert self.api.revision == 235


def recorded_items(name: str) -> list[Object]:
    items: list[Object] = json.loads(recording(name).body)["items"]
    return items


def recorded_uid(name: str) -> str:
    uid: str = json.loads(recording(name).lines[0])["object"]["metadata"]["uid"]
    return uid


@pytest.fixture
def story() -> Iterator[Story]:
    story = Story()
    with story.api:
        yield story


def assert_recorded(exchange: RawExchange, recorded: Recording) -> None:
    with exchange:
        assert exchange.status_line == recorded.status_line
        headers = [each for each in exchange.headers if not each.startswith(CHANGING_HEADERS)]
        assert headers == recorded.headers
        if not recorded.chunks:
            assert exchange.body() == recorded.body


# -- answers that are one body --------------------------------------------------------------

STATES: dict[str, Callable[[Story], Any]] = {
    "apply-conflict": Story.first_objects,
    "apply-seed-example-rejected": Story.first_objects,
    "apply-unchanged": Story.first_objects,
    "crd-get": Story.definition_applied,
    "create-invalid": Story.first_objects,
    "get-missing": Story.first_objects,
    "list-bad-continue": Story.first_objects,
    "list-empty": Story.first_objects,
    "list-forbidden": Story.first_objects,
    "list-page-1": Story.first_objects,
    "list-page-2": Story.first_objects,
    "list-rv0": Story.first_objects,
    "list-unauthorized": Story.first_objects,
    "list-unknown-resource": Story.first_objects,
    "version": Story.definition_applied,
}

TOKENS = {"list-forbidden": "viewer-token", "list-unauthorized": "nobody's"}


@pytest.mark.parametrize("name", sorted(STATES))
def test_answers_equal_the_recorded_ones(story: Story, name: str) -> None:
    STATES[name](story)
    assert_recorded(story.replay(name, TOKENS.get(name)), recording(name))


@pytest.mark.parametrize(
    ("name", "time", "revision"),
    [
        ("apply-create", "19:04:26", 213),
        ("create-without-app", "19:04:26", 214),
        ("create-without-spec", "19:04:26", 215),
    ],
)
def test_a_write_answers_with_the_recorded_object(story: Story, name: str, time: str, revision: int) -> None:
    story.definition_applied()
    story.until(revision)
    story.at(time, json.loads(recording(name).body)["metadata"]["uid"])
    assert_recorded(story.replay(name), recording(name))


def test_an_unchanged_apply_writes_nothing(story: Story) -> None:
    story.first_objects()
    story.at("20:00:00")
    story.replay("apply-unchanged").close()
    story.api.requests.wait(1, "patch")
    assert story.api.revision == 220
    assert story.api.store.find("appmodels").last_revision == 219


def test_an_expired_continue_token_is_replaced_by_a_new_one(story: Story) -> None:
    story.first_objects()
    story.api.faults.compact(219)
    assert_recorded(story.replay("list-expired-continue"), recording("list-expired-continue"))
    token = json.loads(recording("list-expired-continue").body)["metadata"]["continue"]
    rest = story.request("GET", f"{APPMODELS}?continue={token}")
    names = [item["metadata"]["name"] for item in rest["items"]]
    assert names == ["app-1", "app-2", "iiot", "noapp", "nospec"]


def test_a_resource_version_from_the_future_times_out(story: Story) -> None:
    story.first_objects()
    story.until(221)
    assert_recorded(story.replay("list-rv-too-large"), recording("list-rv-too-large"))


def test_the_cache_probe_lags_behind_the_quorum_probe(story: Story) -> None:
    story.first_objects()
    story.until(262)
    story.request("GET", APPMODELS)
    story.until(267)
    assert_recorded(story.replay("probe-cache"), recording("probe-cache"))
    assert_recorded(story.replay("probe-quorum"), recording("probe-quorum"))


@pytest.mark.parametrize("name", ["endpointslices-list", "service-get"])
def test_built_in_kinds_are_shown_as_recorded(story: Story, name: str) -> None:
    story.slices()
    assert_recorded(story.replay(name), recording(name))


# -- watches --------------------------------------------------------------------------------


def watch(story: Story, name: str) -> RawExchange:
    exchange = story.replay(name)
    assert_recorded_head(exchange, recording(name))
    return exchange


def assert_recorded_head(exchange: RawExchange, recorded: Recording) -> None:
    headers = [each for each in exchange.headers if not each.startswith(CHANGING_HEADERS)]
    assert (exchange.status_line, headers) == (recorded.status_line, recorded.headers)


def test_a_watch_shows_the_recorded_events_in_the_recorded_chunks(story: Story) -> None:
    story.first_objects()
    story.until(221)
    chunks = recording("watch-events").chunks
    late = f"{APPMODELS}/late"
    with watch(story, "watch-events") as exchange:
        story.at("19:04:31", recorded_uid("watch-events"))
        obj = app_model("late", ["late_model"], namespace="wire")
        story.request("POST", APPMODELS, obj)
        assert exchange.chunk() == chunks[0]

        changed = app_model("late", ["late_model"], version="v2", namespace="wire")
        apply_type = "application/apply-patch+yaml"
        query = "?fieldManager=appmodels-manager&force=true"
        story.request("PATCH", late + query, changed, apply_type)
        assert exchange.chunk() == chunks[1]

        story.until(225)
        merge_type = "application/merge-patch+json"
        story.request("PATCH", late, {"metadata": {"labels": None}}, merge_type)
        assert exchange.chunk() == chunks[2]

        story.at("19:04:32")
        story.request("PATCH", late, {"metadata": {"labels": {"iidp": "iidp"}}}, merge_type)
        assert exchange.chunk() == chunks[3]

        answer = story.request("DELETE", late)
        assert exchange.chunk() == chunks[4]
        assert answer["details"]["uid"] == recorded_uid("watch-events")

        story.clock.now = 4.3
        assert exchange.chunk() == chunks[5]
        story.clock.now = 6.1
        assert exchange.chunk() == b""
    assert story.api.revision == 228


def test_a_watch_of_endpoint_slices_shows_the_recorded_events(story: Story) -> None:
    story.slices()
    chunks = recording("endpointslices-watch").chunks
    with watch(story, "endpointslices-watch") as exchange:
        story.at("19:04:42")
        changed = json.loads(chunks[0])["object"]
        labels = changed["metadata"]["labels"]
        path = f"{SLICES}/iiot-b2"
        story.request("PUT", path, {**changed, "metadata": {"name": "iiot-b2", "labels": labels}})
        assert exchange.chunk() == chunks[0]
        story.request("DELETE", path)
        assert exchange.chunk() == chunks[1]
        story.clock.now = 1.5
        assert exchange.chunk() == chunks[2]
        story.clock.now = 3.1
        assert exchange.chunk() == b""


def test_a_watch_from_version_0_begins_with_existing_objects(story: Story) -> None:
    story.first_objects()
    with watch(story, "watch-rv0") as exchange:
        assert [exchange.chunk(), exchange.chunk()] == recording("watch-rv0").chunks[:2]
        story.clock.now = 2.1
        assert exchange.chunk() == b""


def test_a_streaming_list_ends_with_its_bookmark_then_watches(story: Story) -> None:
    story.first_objects()
    story.until(228)
    with watch(story, "watch-initial-events") as exchange:
        chunks = recording("watch-initial-events").chunks
        assert [exchange.chunk(), exchange.chunk()] == chunks[:2]
        story.clock.now = 3.1
        assert exchange.chunk() == b""


def test_a_streaming_list_is_refused_within_the_stream_by_an_old_storage() -> None:
    story = Story(progress=False)
    with story.api:
        story.first_objects()
        name = "watch-initial-events-unsupported"
        with watch(story, name) as exchange:
            assert [exchange.chunk(), exchange.chunk()] == recording(name).chunks


def test_a_watch_from_too_old_a_revision_gets_one_error_event(story: Story) -> None:
    story.first_objects()
    with watch(story, "watch-gone") as exchange:
        assert [exchange.chunk(), exchange.chunk()] == recording("watch-gone").chunks


def test_a_watch_from_the_future_stays_silent(story: Story) -> None:
    story.first_objects()
    with watch(story, "watch-future-rv") as exchange:
        story.api.wait_for_watches()
        story.at("19:05:00", "an early uid")
        story.api.apply(app_model("early", namespace="wire"))
        story.clock.now = 3.5
        story.clock.now = 5.1
        assert exchange.chunk() == b""


def test_every_recording_is_replayed() -> None:
    source = Path(__file__).read_text()
    assert [name for name in names() if f'"{name}"' not in source] == []


def test_the_samples_declare_the_recorded_definition() -> None:
    recorded = json.loads(recording("crd-get").body)
    kind = kind_of_definition(app_model_definition())
    assert kind == kind_of_definition(recorded)
