"""The continuously changing objects and values, and their final state."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import redis

from tests.apiserver import ApiServer, app_model, endpoint, endpoint_slice
from tests.apiserver.status import ApiError

NAMESPACE = "meta-test"
APPS = 40
MODELS_PER_APP = 5
MODELS = [f"model_{number}" for number in range(APPS * MODELS_PER_APP)]


class World:
    """All AppModels, slices and metadata values, changed at random by one generator."""

    def __init__(self, api: ApiServer, store: redis.Redis, dice: random.Random) -> None:
        self._api = api
        self._redis = store
        self._dice = dice
        self._versions = dict.fromkeys(MODELS, 1)
        for number in range(APPS):
            self._apply(number)
            self._endpoints(number)

    def change(self) -> None:
        """Make one random change."""
        number = self._dice.randrange(APPS)
        what = self._dice.random()
        if what < 0.45:
            self._apply(number)
        elif what < 0.55:
            with contextlib.suppress(ApiError):
                self._api.delete("appmodels", f"app-{number}", NAMESPACE)
        elif what < 0.95:
            self._endpoints(number)
        else:
            with contextlib.suppress(ApiError):
                self._api.delete("endpointslices", f"app-{number}-a", NAMESPACE)

    def storm(self, count: int) -> None:
        """Make `count` changes as fast as possible."""
        for _ in range(count):
            self.change()

    def write_values(self) -> None:
        """Write every value again, as after a loss of the whole store."""
        for item in self._api.list("appmodels", NAMESPACE):
            for model in item["spec"]["models"]:
                self._value(item["spec"]["app"], model["name"], model["version"])

    def _apply(self, number: int) -> None:
        first = number * MODELS_PER_APP
        models = MODELS[first : first + MODELS_PER_APP]
        if self._dice.random() < 0.2:  # a claim on a neighbour's model: a conflict
            models = [*models, MODELS[(first + MODELS_PER_APP) % len(MODELS)]]
        for model in models:
            if self._dice.random() < 0.3:
                self._versions[model] += 1
        versions = {model: f"v{self._versions[model]}" for model in models}
        app = f"app_{number}" if self._dice.random() < 0.8 else f"app_{number}_b"
        for model, version in versions.items():
            self._value(app, model, version)
        version = f"v{self._dice.randrange(1000)}"
        self._api.apply(app_model(f"app-{number}", versions, app=app, version=version, namespace=NAMESPACE))

    def _value(self, app: str, model: str, version: str) -> None:
        with contextlib.suppress(redis.RedisError):
            self._redis.set(f"{app}_{model}", json.dumps({"version": version, "model": model, "pad": "x" * 100}))

    def _endpoints(self, number: int) -> None:
        hosts = self._dice.sample(range(1, 250), self._dice.randrange(0, 6))
        endpoints: list[Any] = [endpoint(f"10.0.{number}.{host}", ready=self._dice.random() < 0.8) for host in hosts]
        self._api.apply(endpoint_slice(f"app-{number}-a", f"app-{number}", endpoints, namespace=NAMESPACE))
