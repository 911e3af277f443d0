"""Makes a store's key from a model's names. Pure."""

from __future__ import annotations

from string import Formatter
from typing import Final

from shmroute.errors import ConfigError

DEFAULT_TEMPLATE: Final = "{app}_{model}"

_FIELDS: Final = ("namespace", "app", "model", "version")


class KeyTemplate:
    """A template such as `{app}_{model}`. Fields: namespace, app, model, version; `{{` and `}}` are literal braces.

    Raises:
        ConfigError: a field does not exist, or `{model}` is missing: all models of an app would share one value.
    """

    def __init__(self, template: str = DEFAULT_TEMPLATE) -> None:
        self.template = template
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(f"key template {template!r}: {error}") from error
        used = [field for _, field, _, _ in parts if field is not None]
        for _, field, spec, conversion in parts:
            if field is not None and (field not in _FIELDS or spec or conversion):
                raise ConfigError(f"key template {template!r}: write only {{{'}, {'.join(_FIELDS)}}}")
        if "model" not in used:
            raise ConfigError(f"key template {template!r} lacks {{model}}: all models would share one value")

    def key(self, namespace: str, app: str, model: str, version: str) -> str:
        """Return the key of one model's metadata."""
        return self.template.format(namespace=namespace, app=app, model=model, version=version)
