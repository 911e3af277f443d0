"""Server-side apply of one object, and its outcome. Called by `shmroute.kube.crd` and `shmroute.kube.write`."""

from __future__ import annotations

import enum
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from shmroute.errors import ApiError

if TYPE_CHECKING:
    from shmroute.kube.abort import Abort
    from shmroute.kube.connection import Answer, Connection

CONTENT_TYPE = "application/apply-patch+yaml"
"""The content type that every server since 1.16 accepts. JSON is YAML."""


class Outcome(enum.StrEnum):
    """Result of writing or deleting an object, in the words of the command line."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    DELETING = "deleting"
    """The object is marked for deletion, and exists until its finalizers are removed."""
    NOT_FOUND = "not found"


def apply_object(
    connection: Connection,
    path: str,
    body: bytes,
    *,
    field_manager: str,
    dry_run: bool = False,
    abort: Abort | None = None,
) -> Outcome:
    """Apply `body` (JSON) to the object at `path`, and take over fields that other managers own.

    Needs the verbs get and patch, and create for a new object. Raises `ApiError`.
    """
    before = find_object(connection, path, abort=abort)
    query = {"fieldManager": field_manager, "force": "true"}
    if dry_run:
        query["dryRun"] = "All"
    answer = connection.request("PATCH", path, query, body, CONTENT_TYPE, abort=abort)
    if answer.status == HTTPStatus.CREATED:
        return Outcome.CREATED
    # If nothing changes, the server writes nothing and the resourceVersion stays.
    same = before is not None and resource_version(before) == resource_version(answer)
    return Outcome.UNCHANGED if same else Outcome.CONFIGURED


def find_object(connection: Connection, path: str, *, abort: Abort | None = None) -> Answer | None:
    """Return the object at `path`; None if it does not exist. Raises `ApiError` for every other refusal."""
    try:
        return connection.request("GET", path, abort=abort)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND and error.reason == "NotFound":
            return None
        raise


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str


class _Object(msgspec.Struct):
    metadata: _Metadata


def resource_version(answer: Answer) -> str:
    """Return the resourceVersion of the object in an answer."""
    try:
        return msgspec.json.decode(answer.data, type=_Object).metadata.resource_version
    except msgspec.DecodeError as error:
        raise ApiError("apply", answer.status, "Garbled", f"the answer is not a Kubernetes object: {error}") from error
