"""The text of `ModelNotFound`: area, age and similar names, computed only when the text is read."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from shmroute import AppNotFound, ModelNotFound, Reader
from shmroute.errors import CallModelNotFound
from shmroute.testing import Answer, Routes
from shmroute.worker import similar_names


@pytest.fixture
def reader(area: str, ample_scans: None) -> Iterator[Reader]:
    routes = Routes(area)
    routes.set({"model1": Answer(app="app1"), "other": "app1", "third": Answer(app="app2", namespace="east")})
    with Reader(area) as reader:
        yield reader
    routes.close()


def missing(reader: Reader, name: str, namespace: str | None = None) -> ModelNotFound:
    with pytest.raises(ModelNotFound) as raised:
        reader.resolve(name, namespace=namespace)
    return raised.value


def test_error_text_names_area_age_and_similar_models(reader: Reader) -> None:
    text = str(missing(reader, "modle1"))
    assert text.startswith(f"no app serves model 'modle1' in area {reader.area!r} (3 models, in step ")
    assert text.endswith(" s ago); did you mean 'model1'?")
    assert "did you mean" not in str(missing(reader, "nothing like it"))
    assert str(missing(reader, "third", "west")).endswith("; namespaces that have it: east")
    with pytest.raises(AppNotFound, match=r"no AppModel names app 'ap1' in area .*did you mean 'app1'"):
        reader.app("ap1")


def test_error_text_is_made_once_and_kept_in_copies(reader: Reader) -> None:
    error = missing(reader, "modle1")
    sent = pickle.loads(pickle.dumps(error))
    text = str(error)
    assert "did you mean" in text
    for twin in (sent, copy.copy(error), copy.deepcopy(error)):
        assert str(twin) == text
        assert vars(twin) == vars(error)


def test_a_caught_miss_searches_for_no_similar_names(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_names, "describe", lambda *_: pytest.fail("a miss paid for its text"))
    assert reader.get("modle1") is None
    missing(reader, "modle1")
    missing(reader, "modle1", "west")


def test_search_for_similar_names_takes_a_bounded_share_of_time(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar_names._budget, "left", -60.0)
    text = str(missing(reader, "modle1"))
    assert f"in area {reader.area!r} (in step " in text
    assert "did you mean" not in text


def test_an_unreadable_area_gives_the_error_without_suggestions(reader: Reader) -> None:
    error = missing(reader, "modle1")
    reader._position.named_area = "there-is-no-such-area"
    assert str(error) == "no app serves model 'modle1'"


def test_failed_call_names_similar_models_too(reader: Reader) -> None:
    from shmroute.calls import Attempts, default_policy

    def look_up() -> Any:
        return reader.resolve("modle1")

    with pytest.raises(CallModelNotFound, match="did you mean 'model1'"):
        for _ in Attempts(default_policy(), look_up, model="modle1"):
            pass
