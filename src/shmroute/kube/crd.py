"""The CustomResourceDefinition of AppModel: its text, and its installation in a cluster.

Called by `shmroute crd` and by users. It never deletes a definition: that would delete every AppModel too.
The text itself, with the reasons for its content, is `shmroute/crds/appmodels.yaml`.
"""

from __future__ import annotations

import importlib.resources
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from shmroute.errors import ApiError, InvalidObject
from shmroute.kube.connection import path_of
from shmroute.kube.server_side_apply import Outcome, apply_object, find_object
from shmroute.resources.registry import APPMODELS

if TYPE_CHECKING:
    from shmroute.kube.connection import Answer, Connection

NAME = APPMODELS.full_name
FIELD_MANAGER = "shmroute"

INSTALL_TIMEOUT_SECONDS = 30.0
"""Longest wait until the server serves AppModels, in seconds. It usually takes well under a second; a server that is
starting, or one of several replicas, takes some seconds."""

POLL_SECONDS = 0.1

_PATH = path_of("apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions", NAME)
_DISCOVERY_PATH = path_of("apis", "iidp.com", "v1")


class _Condition(msgspec.Struct):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class _Status(msgspec.Struct):
    conditions: tuple[_Condition, ...] | None = None


class _Version(msgspec.Struct):
    name: str


class _Spec(msgspec.Struct):
    versions: tuple[_Version, ...] = ()


class _Metadata(msgspec.Struct, rename="camel"):
    deletion_timestamp: str | None = None


class _Definition(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    def condition(self, name: str) -> _Condition:
        conditions = self.status.conditions or ()
        return next((each for each in conditions if each.type == name), _Condition(name, "Unknown"))


def crd_yaml() -> str:
    """Return the definition as YAML, for `kubectl apply -f -`."""
    return importlib.resources.files("shmroute").joinpath("crds", "appmodels.yaml").read_text(encoding="utf-8")


def install_crd(connection: Connection, *, timeout_seconds: float = INSTALL_TIMEOUT_SECONDS) -> Outcome:
    """Install or update the definition, and wait until the server serves AppModels.

    Returns whether it was `CREATED`, `CONFIGURED` or `UNCHANGED`. Existing AppModels stay unchanged and valid.

    Raises:
        ApiError: the server refused (the message names a missing right), did not answer, or did not serve
            AppModels within `timeout_seconds`.
        InvalidObject: the cluster's definition has versions that this one lacks; it was not changed.
    """
    deadline = time.monotonic() + timeout_seconds
    try:
        found = find_object(connection, _PATH)
        if found is not None:
            _check_versions(_decode(found))
        outcome = apply_object(connection, _PATH, _json(crd_yaml()), field_manager=FIELD_MANAGER)
    except ApiError as error:
        if error.status == HTTPStatus.FORBIDDEN:
            raise _without_right(error) from error
        raise
    while (problem := _not_served(connection)) is not None:
        if time.monotonic() >= deadline:
            waited = f"not served within {timeout_seconds:g} s: {problem}"
            raise ApiError(f"install of {NAME}", 0, "Timeout", waited)
        time.sleep(POLL_SECONDS)
    return outcome


def _check_versions(definition: _Definition) -> None:
    """Refuse to replace the definition of a later release: this would remove its other versions from the cluster."""
    lost = sorted({each.name for each in definition.spec.versions} - {each.name for each in _own().spec.versions})
    if lost:
        raise InvalidObject(
            f"CustomResourceDefinition {NAME}",
            f"the cluster's definition has the versions {', '.join(lost)}, which this release does not know."
            " It was left as it is; install a newer shmroute to change it",
        )


def _not_served(connection: Connection) -> str | None:
    """Return why AppModels are not served yet; None once they are. Raises `ApiError` if waiting cannot help."""
    found = find_object(connection, _PATH)
    if found is None:
        return "somebody has deleted the definition meanwhile"
    definition = _decode(found)
    names = definition.condition("NamesAccepted")
    if names.status == "False":
        raise ApiError(f"install of {NAME}", HTTPStatus.CONFLICT, names.reason, names.message)
    if definition.metadata.deletion_timestamp:
        held = "it is being deleted: wait until it is gone, with all AppModels, and install it again"
        raise ApiError(f"install of {NAME}", HTTPStatus.CONFLICT, "Terminating", held)
    established = definition.condition("Established")
    if established.status != "True":
        return f"condition Established is {established.status} {established.message}".rstrip()
    # A server stores the condition a moment before it serves the resource.
    try:
        connection.request("GET", _DISCOVERY_PATH)
    except ApiError as error:
        if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE):
            raise
        return f"established, and {_DISCOVERY_PATH} still answers {error.status}"
    return None


def _without_right(error: ApiError) -> ApiError:
    needed = (
        "installing the CRD needs the verbs get, create and patch on"
        " customresourcedefinitions.apiextensions.k8s.io; someone who has them can apply `shmroute crd print`"
    )
    message = f"{error.message} ({needed})"
    return ApiError(error.what, error.status, error.reason, message, details=error.details)


def _own() -> _Definition:
    return msgspec.json.decode(_json(crd_yaml()), type=_Definition)


def _decode(answer: Answer) -> _Definition:
    try:
        return msgspec.json.decode(answer.data, type=_Definition)
    except msgspec.DecodeError as error:
        raise ApiError(f"GET {_PATH}", answer.status, "Garbled", f"the answer is not a definition: {error}") from error


def _json(text: str) -> bytes:
    import yaml  # imported late: `crd print` does not need it

    return msgspec.json.encode(yaml.safe_load(text))
