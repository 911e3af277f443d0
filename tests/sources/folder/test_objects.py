"""All files together: the choice between two files with one object, and events for exactly the changes."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shmroute.resources.appmodel import AppModel, InvalidAppModel, ModelVersion
from shmroute.resources.endpointslice import EndpointSlice
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import BUILT_IN, Item
from shmroute.sources.base import Changed, Deleted, Replaced, Resource
from shmroute.sources.folder.content import Content
from shmroute.sources.folder.objects import FolderObjects
from tests.sources.folder.manifests import Follower, Objects

FOLDER = Path("/manifests")
BOTH = tuple(kind.name for kind in BUILT_IN)


def item(resource: Resource, name: str, version: str) -> Item:
    key = ObjectKey("ns", name)
    if resource == "appmodels":
        return AppModel(key, "", version, name, version, (ModelVersion("m", version),), service=key)
    return EndpointSlice(key, version, key, "IPv4", (), ())


def content(*objects: tuple[Resource, str, str], notes: tuple[str, ...] = ()) -> Content:
    return Content({(resource, ObjectKey("ns", name)): item(resource, name, v) for resource, name, v in objects}, notes)


def a(name: str, version: str = "1") -> tuple[Resource, str, str]:
    return ("appmodels", name, version)


class Folder(FolderObjects):
    """A folder whose events are applied to a dict."""

    def __init__(self) -> None:
        super().__init__(FOLDER, BUILT_IN)
        self.follower = Follower()

    def tell(self) -> list[object]:
        events = self.take_events(1)
        for event in events:
            self.follower.put(event)
        return list(events)


Operation = tuple[str, str, list[tuple[Resource, str, str]]]
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(
        st.just("put"),
        st.sampled_from("abc"),
        st.lists(
            st.tuples(st.sampled_from(BOTH), st.sampled_from("xyz"), st.sampled_from("12")),
            max_size=4,
            unique_by=lambda each: each[:2],
        ),
    ),
    st.tuples(st.just("break"), st.sampled_from("abc"), st.just([])),
    st.tuples(st.just("remove"), st.sampled_from("abc"), st.just([])),
    st.tuples(st.just("tell"), st.just(""), st.just([])),
)


@given(st.lists(OPERATIONS, max_size=30))
def test_events_reproduce_the_files_content_after_any_changes(
    operations: list[Operation],
) -> None:
    folder = Folder()
    good: dict[str, Content] = {}
    broken: set[str] = set()
    for operation, name, objects in operations:
        if operation == "put":
            good[name] = content(*objects)
            broken.discard(name)
            folder.put(name, good[name])
        elif operation == "break":
            broken.add(name)
            folder.set_aside(name, "broken")
        elif operation == "remove":
            good.pop(name, None)
            broken.discard(name)
            folder.remove(name)
        else:
            folder.tell()
    folder.tell()
    in_force: Objects = {}
    doubles = set()
    for name in sorted(good):
        for identity, each in good[name].objects.items():
            if identity in in_force:
                doubles.add(name)
            in_force.setdefault(identity, each)
    assert folder.follower.objects == in_force
    assert {Path(path).name for path in folder.follower.problems} == broken | doubles
    assert folder.tell() == []


def test_the_first_events_are_complete_lists_even_if_empty() -> None:
    assert Folder().tell() == [Replaced("appmodels", (), 1), Replaced("endpointslices", (), 1)]


def test_one_change_is_one_event_for_any_size_of_folder() -> None:
    folder = Folder()
    for number in range(100):
        folder.put(f"{number:03}", content(a(f"app{number}")))
    folder.tell()
    folder.put("007", content(a("app7", "2")))
    assert folder.tell() == [Changed("appmodels", item("appmodels", "app7", "2"), 1)]
    folder.remove("008")
    assert folder.tell() == [Deleted("appmodels", ObjectKey("ns", "app8"), 1)]
    folder.put("009", content(a("app9")))
    assert folder.tell() == []


def test_several_changes_at_once_are_one_event_for_each_kind() -> None:
    folder = Folder()
    folder.put("a", content(a("x"), a("y"), ("endpointslices", "s", "1")))
    folder.tell()
    folder.put("a", content(a("x", "2"), ("endpointslices", "s", "2")))
    replaced, changed = folder.tell()
    assert replaced == Replaced("appmodels", (item("appmodels", "x", "2"),), 1)
    assert changed == Changed("endpointslices", item("endpointslices", "s", "2"), 1)


def test_second_file_with_an_object_takes_over_from_the_first() -> None:
    folder = Folder()
    folder.put("b", content(a("x", "2")))
    folder.put("a", content(a("x", "1")))
    folder.tell()
    assert folder.follower.apps() == {"x": "1"}
    assert folder.follower.reason("b") == "AppModel ns/x is taken from a, which has it too"
    folder.remove("a")
    assert folder.tell()[0] == Changed("appmodels", item("appmodels", "x", "2"), 1)
    assert folder.follower.problems == {}


def test_a_broken_file_keeps_its_objects_until_fixed_or_deleted() -> None:
    folder = Folder()
    folder.put("a", content(a("x")))
    folder.tell()
    folder.set_aside("a", "line 3: nonsense")
    folder.tell()
    (problem,) = folder.follower.problems.values()
    assert (problem.path, problem.reason, problem.last_good) == ("/manifests/a", "line 3: nonsense", True)
    assert folder.follower.apps() == {"x": "1"}
    folder.put("a", content(a("x", "2")))
    folder.tell()
    assert (folder.follower.apps(), folder.follower.problems) == ({"x": "2"}, {})
    folder.set_aside("a", "again")
    folder.remove("a")
    folder.tell()
    assert (folder.follower.apps(), folder.follower.problems) == ({}, {})


def test_a_file_that_was_never_valid_serves_nothing() -> None:
    folder = Folder()
    folder.set_aside("a", "nonsense")
    folder.tell()
    assert [problem.last_good for problem in folder.follower.problems.values()] == [False]


def test_broken_file_whose_objects_were_never_valid_has_nothing_served() -> None:
    folder = Folder()
    key = ObjectKey("ns", "x")
    folder.put("a", Content({("appmodels", key): InvalidAppModel(key, "1", "spec.app is missing")}, ()))
    folder.tell()
    folder.set_aside("a", "nonsense")
    folder.tell()
    assert [problem.last_good for problem in folder.follower.problems.values()] == [False]


def test_a_problem_is_reported_once_and_again_when_its_text_changes() -> None:
    folder = Folder()
    folder.put("a", content(notes=("one", "two", "three", "four", "five")))
    folder.tell()
    assert folder.follower.reason("a") == "one; two; three; and 2 more"
    folder.put("a", content(notes=("one", "two", "three", "four", "five")))
    assert folder.tell() == []
    folder.put("a", content(notes=("six",)))
    folder.tell()
    assert folder.follower.reason("a") == "six"
