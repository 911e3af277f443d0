from __future__ import annotations

from pathlib import Path

import pytest

from shmroute.errors import ConfigError
from shmroute.metadata.folder_store import FolderStore
from shmroute.metadata.store import StoreUnavailable
from shmroute.metadata.template import KeyTemplate
from shmroute.metadata.write import MetadataFiles, check_metadata, write_metadata
from shmroute.resources.appmodel import AppModel, ModelVersion
from shmroute.resources.key import ObjectKey

KEY = ObjectKey("meta-test", "new-app")
MODELS = (ModelVersion("m1", "v-1"), ModelVersion("m2", "v-2"), ModelVersion("m3", "v-3"))
APPMODEL = AppModel(KEY, "", "", "newApp", "v-9", MODELS, KEY)
TEMPLATE = KeyTemplate()


def test_a_file_holds_values_by_model_and_their_bytes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    path.write_bytes(b'{"m1": {"b":1.10,  "a": "\\u00e9"}, "m3": [1, 2], "other": 1}')
    files = MetadataFiles(path)
    assert files.values(APPMODEL, TEMPLATE) == {"m1": b'{"b":1.10,  "a": "\\u00e9"}', "m3": b"[1, 2]"}
    assert files.unused({"m1", "m2", "m3"}) == ["other"]


def test_a_folder_holds_a_file_for_each_key_or_model(tmp_path: Path) -> None:
    (tmp_path / "newApp_m1").write_bytes(b"\xff by key")
    (tmp_path / "m1.json").write_bytes(b"not this one")
    (tmp_path / "m2.json").write_bytes(b'{"by": "model"}')
    (tmp_path / "m3").mkdir()
    files = MetadataFiles(tmp_path)
    assert files.values(APPMODEL, TEMPLATE) == {"m1": b"\xff by key", "m2": b'{"by": "model"}'}
    assert files.unused({"m1"}) == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"m1": ', b"\xff", b'{"m1": 1} 2'])
def test_a_file_without_a_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "values.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="write a JSON object"):
        MetadataFiles(path)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        MetadataFiles(tmp_path / "nowhere")


def test_values_are_written_under_the_keys_that_watchers_read(tmp_path: Path) -> None:
    template = KeyTemplate("{namespace}:{app}:{model}:{version}")
    keys = write_metadata(FolderStore(tmp_path), APPMODEL, {"m1": b"one", "m2": b'{"version": "v-2"}'}, template)
    assert keys == ["meta-test:newApp:m1:v-1", "meta-test:newApp:m2:v-2"]
    assert (tmp_path / "meta-test:newApp:m1:v-1").read_bytes() == b"one"
    assert write_metadata(FolderStore(tmp_path), APPMODEL, {"m1": b"one"}) == ["newApp_m1"]


def test_a_value_of_another_version_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    values = {"m1": b"one", "m2": b'{"version": "v-1"}'}
    with pytest.raises(ConfigError, match="metadata of 'm2' says version 'v-1'"):
        write_metadata(FolderStore(tmp_path), APPMODEL, values)
    assert list(tmp_path.iterdir()) == []


def test_a_value_of_an_unknown_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="meta-test/new-app has no such model"):
        check_metadata(APPMODEL, {"m4": b"value"})


def test_unavailable_store_raises_before_the_appmodel_is_applied(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        write_metadata(FolderStore(tmp_path / "nowhere"), APPMODEL, {"m1": b"one"})
