"""`shmroute apply --metadata`: write the values for an AppModel's models before the AppModel itself.

Because of this order no reader sees the new version with the old value. Called by the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from shmroute.errors import ConfigError
from shmroute.metadata.own_version import own_version
from shmroute.metadata.store import Store
from shmroute.metadata.template import KeyTemplate
from shmroute.resources.appmodel import AppModel

_decode_values = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class MetadataFiles:
    """The argument of `--metadata`: a JSON file `{model: value}`, or a folder with a file for each key or model.

    In a folder, the value of a model is the first existing file of `<key>`, `<key>.json`, `<model>` and
    `<model>.json`. Values are written byte for byte.

    Raises:
        ConfigError: there is no such path, or the file is not a JSON object.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._values: Mapping[str, msgspec.Raw] | None = None
        if self._path.is_dir():
            return
        try:
            self._values = _decode_values(self._path.read_bytes())
        except OSError as error:
            raise ConfigError(f"metadata {self._path}: {error.strerror}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"metadata {self._path}: write a JSON object {{model: value}}: {error}") from error

    def values(self, appmodel: AppModel, template: KeyTemplate) -> dict[str, bytes]:
        """Return the values for models of `appmodel`, by model. A model may have none; its key is then not written.

        Raises:
            ConfigError: a file cannot be read.
        """
        names = [(model.name, _key(appmodel, model.name, model.version, template)) for model in appmodel.models]
        if self._values is not None:
            return {model: bytes(self._values[model]) for model, _ in names if model in self._values}
        found = {}
        for model, key in names:
            value = self._file(key, f"{key}.json", model, f"{model}.json")
            if value is not None:
                found[model] = value
        return found

    def unused(self, models: set[str]) -> list[str]:
        """Return the models of the file that are not in `models`: probably misspelt."""
        return sorted(set(self._values or ()) - models)

    def _file(self, *names: str) -> bytes | None:
        for name in names:
            if "/" in name:
                continue
            path = self._path / name
            try:
                if path.is_file():
                    return path.read_bytes()
            except OSError as error:
                raise ConfigError(f"metadata {path}: {error.strerror}") from error
        return None


def check_metadata(appmodel: AppModel, values: Mapping[str, bytes]) -> None:
    """Refuse values that could never be loaded, before anything is written.

    Raises:
        ConfigError: a value states another version than its model has, or belongs to no model.
    """
    versions = {model.name: model.version for model in appmodel.models}
    for model, value in values.items():
        if model not in versions:
            raise ConfigError(f"metadata of {model!r}: AppModel {appmodel.key} has no such model")
        own = own_version(value)
        if own is not None and own != versions[model]:
            raise ConfigError(
                f"metadata of {model!r} says version {own!r}, but AppModel {appmodel.key} has version"
                f" {versions[model]!r}: it would never be loaded"
            )


def write_metadata(
    store: Store, appmodel: AppModel, values: Mapping[str, bytes], template: KeyTemplate | None = None
) -> list[str]:
    """Write `values`, by model of `appmodel`. When this returns, the AppModel may be applied.

    Returns:
        The written keys.

    Raises:
        ConfigError: as `check_metadata`; nothing has been written.
        StoreUnavailable: some values may have been written; do not apply the AppModel, try again.
    """
    check_metadata(appmodel, values)
    template = template or KeyTemplate()
    versions = {model.name: model.version for model in appmodel.models}
    by_key = {_key(appmodel, model, versions[model], template): value for model, value in values.items()}
    store.write(by_key)
    return list(by_key)


def _key(appmodel: AppModel, model: str, version: str, template: KeyTemplate) -> str:
    return template.key(appmodel.key.namespace, appmodel.app, model, version)
