"""Write AppModels to a cluster: validate them, then use server-side apply; and delete them.

Called by `shmroute apply` and `shmroute delete`, and by users through `shmroute.kube`. Nothing is sent unless
all manifests are valid. It writes no metadata itself: a caller does so in `before_send`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from shmroute.errors import ApiError, InvalidObject
from shmroute.kube.connection import path_of
from shmroute.kube.discovery import find_served, missing_because
from shmroute.kube.kubeconfig import check_namespace
from shmroute.kube.server_side_apply import Outcome, apply_object
from shmroute.manifests.files import Document, encode
from shmroute.resources.appmodel import AppModel, InvalidAppModel, find_problems, parse_appmodel
from shmroute.resources.appmodel_rules import API_VERSION, KIND, PORT_ANNOTATION, SERVICE_ANNOTATION
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import APPMODELS

if TYPE_CHECKING:
    from shmroute.kube.abort import Abort
    from shmroute.kube.connection import Answer, Connection

FIELD_MANAGER = "appmodels-manager"
"""The platform's own field manager: fields written by the platform or by shmroute then have one owner."""

LABEL = ("iidp", "iidp")
"""Label by which watchers select AppModels unless they have another selector."""

SERVER_SET = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)
"""Fields of `metadata` that a server sets, found in a manifest from `kubectl get -o yaml`. A server would refuse them
(managedFields), or tie the object to one state of one cluster (resourceVersion, uid)."""


class Written(msgspec.Struct, frozen=True):
    """Result of writing or deleting one AppModel."""

    key: ObjectKey
    outcome: Outcome
    finalizers: tuple[str, ...] = ()
    """Finalizers that hold an AppModel that is `DELETING`."""


Report = Callable[[Written], object]
"""Called with each AppModel as soon as it is written, since writing many takes a while."""


def appmodel_manifest(
    app: str,
    version: str,
    models: Mapping[str, str] | Iterable[tuple[str, str]],
    *,
    name: str | None = None,
    namespace: str | None = None,
    service: str | None = None,
    port: str | int | None = None,
) -> dict[str, Any]:
    """Return an AppModel's manifest from its parts, without validating it.

    Args:
        app: the app's name.
        version: the app's version.
        models: model name to model version; or pairs of them.
        name: `metadata.name`; by default the app's name in lower case, since Kubernetes allows no capitals.
        namespace: the AppModel's namespace; not set by default.
        service: the app's Service, `name` or `namespace/name`, if its name differs from the AppModel's.
        port: name or number of the Service's port, if it has several.
    """
    metadata: dict[str, Any] = {"name": app.lower() if name is None else name}
    if namespace is not None:
        metadata["namespace"] = namespace
    annotations = {SERVICE_ANNOTATION: service, PORT_ANNOTATION: None if port is None else str(port)}
    if given := {key: value for key, value in annotations.items() if value is not None}:
        metadata["annotations"] = given
    pairs = models.items() if isinstance(models, Mapping) else models
    listed = [{"name": model, "version": model_version} for model, model_version in pairs]
    spec = {"app": app, "version": version, "models": listed}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def apply_appmodels(
    connection: Connection,
    manifests: Iterable[Document | Mapping[str, Any]],
    *,
    namespace: str | None = None,
    before_send: Callable[[Sequence[AppModel]], object] | None = None,
    report: Report | None = None,
    abort: Abort | None = None,
) -> list[Written]:
    """Create or update AppModels by server-side apply, forced, in the order given.

    Adds the label `iidp=iidp`, by which watchers find them.

    Args:
        connection: the connection to the cluster.
        manifests: the result of `shmroute.manifests.read`, or plain manifests.
        namespace: the namespace of manifests that name none; by default that of the connection's context.
        before_send: called once with all AppModels, after the server has accepted every one in a dry run and
            before the first is written. It writes data that must exist before anybody sees the new versions, such as
            metadata. If it raises, nothing is sent.
        report: called with each result as soon as it is known.
        abort: ends the call from another thread.

    Returns:
        The outcome for each AppModel: `CREATED`, `CONFIGURED` or `UNCHANGED`.

    Raises:
        InvalidObject: some manifests are wrong; the error names all problems, and nothing was sent.
        ConfigError: `namespace` is not the name of a namespace.
        ApiError: the server refused an AppModel, or did not answer. Those before it are written; applying all again
            is safe.
    """
    if namespace is not None:
        check_namespace(namespace, "-n")
    prepared = _prepare(manifests, namespace or connection.namespace)
    if before_send is not None:
        for appmodel, body in prepared:
            _apply(connection, appmodel.key, body, dry_run=True, abort=abort)
        before_send([appmodel for appmodel, _ in prepared])
    results = []
    for appmodel, body in prepared:
        written = Written(appmodel.key, _apply(connection, appmodel.key, body, dry_run=False, abort=abort))
        results.append(written)
        if report is not None:
            report(written)
    return results


def find_keys(manifests: Iterable[Document | Mapping[str, Any]], *, namespace: str) -> list[ObjectKey]:
    """Return the keys of the AppModels in manifests, for `delete_appmodels`: their specs need not be valid.

    Manifests that name no namespace get `namespace`. Raises `InvalidObject` for another kind or a missing name.
    """
    documents = _documents(manifests)
    problems: list[str] = []
    keys = []
    for document in documents:
        metadata = document.manifest.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        name, own = metadata.get("name"), metadata.get("namespace")
        if document.kind != KIND or document.api_version != API_VERSION:
            problems.append(f"{document.where}: not an AppModel ({document.api_version} {document.kind})")
        elif not isinstance(name, str) or not name:
            problems.append(f"{document.where}: metadata.name is missing")
        elif own is not None and not isinstance(own, str):
            problems.append(f"{document.where}: metadata.namespace is not a string")
        else:
            keys.append(ObjectKey(own or namespace, name))
    _refuse(problems, "deleted")
    return keys


def delete_appmodels(
    connection: Connection,
    keys: Iterable[ObjectKey],
    *,
    report: Report | None = None,
) -> list[Written]:
    """Delete AppModels by namespace and name, in the order given.

    Returns the outcome for each: `DELETED`, `DELETING` (a finalizer holds it, and watchers serve it until it is
    gone) or `NOT_FOUND`. Raises `ApiError` if the server refused one or did not answer; those before it are
    deleted.
    """
    results = []
    for key in keys:
        try:
            answer = connection.request("DELETE", _path(key))
            finalizers = _finalizers(answer)
            written = Written(key, Outcome.DELETING if finalizers else Outcome.DELETED, finalizers)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND or error.reason != "NotFound":
                raise _named(error, f"delete of AppModel {key}", connection) from error
            written = Written(key, Outcome.NOT_FOUND)
        results.append(written)
        if report is not None:
            report(written)
    return results


class _Metadata(msgspec.Struct):
    finalizers: tuple[str, ...] | None = None


class _Deleted(msgspec.Struct):
    """Answer to a deletion: a Status, or the object if a finalizer still holds it."""

    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


def _finalizers(answer: Answer) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(answer.data, type=_Deleted).metadata.finalizers or ()
    except msgspec.DecodeError as error:
        raise ApiError("delete", answer.status, "Garbled", f"the answer is not a Kubernetes object: {error}") from error


def _prepare(manifests: Iterable[Document | Mapping[str, Any]], namespace: str) -> list[tuple[AppModel, bytes]]:
    """Return each AppModel with the body to send. Raises `InvalidObject` with all problems of all manifests."""
    problems: list[str] = []
    prepared: list[tuple[AppModel, bytes]] = []
    first: dict[ObjectKey, str] = {}
    documents = _documents(manifests)
    for document in documents:
        completed = Document(document.where, _completed(document.manifest, namespace))
        found = [*find_problems(completed.manifest), *_label_problems(completed.manifest)]
        if found:
            problems += (f"{_name_of(completed)}: {problem}" for problem in found)
            continue
        body = encode(completed)
        appmodel = parse_appmodel(body, default_namespace=namespace)
        if isinstance(appmodel, InvalidAppModel):
            problems.append(f"{_name_of(completed)}: {appmodel.reason}")
        elif appmodel.key in first:
            problems.append(f"{_name_of(completed)}: {first[appmodel.key]} is the same object")
        else:
            first[appmodel.key] = document.where
            prepared.append((appmodel, body))
    if not documents:
        problems.append("no AppModel was given")
    _refuse(problems, "sent")
    return prepared


def _documents(manifests: Iterable[Document | Mapping[str, Any]]) -> list[Document]:
    return [
        each if isinstance(each, Document) else Document(f"manifest {number}", dict(each))
        for number, each in enumerate(manifests, 1)
    ]


def _completed(manifest: dict[str, Any], namespace: str) -> dict[str, Any]:
    """Return the manifest to send. If its metadata is not a map, return it unchanged; it is refused later."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, Mapping):
        return manifest
    completed = {key: value for key, value in metadata.items() if key not in SERVER_SET}
    completed["namespace"] = completed.get("namespace") or namespace
    labels = completed.get("labels")
    if labels is None or isinstance(labels, Mapping):
        key, value = LABEL
        completed["labels"] = {key: value, **(labels or {})}
    return {**manifest, "metadata": completed}


def _label_problems(manifest: dict[str, Any]) -> Iterator[str]:
    key, wanted = LABEL
    metadata = manifest.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, Mapping) else None
    if isinstance(labels, Mapping) and labels[key] != wanted:
        yield (
            f"metadata.labels.{key} is {labels[key]!r}: no watcher would find the AppModel."
            f" Write {wanted}, or leave it out and it is added"
        )


def _name_of(document: Document) -> str:
    """Return the place of a problem: the file, and the object's name if it has one."""
    metadata = document.manifest.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return f"{document.where} ({document.kind} {name})" if isinstance(name, str) and name else document.where


def _refuse(problems: list[str], done: str) -> None:
    if len(problems) == 1:
        raise InvalidObject(f"nothing was {done}", problems[0])
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise InvalidObject(f"{len(problems)} problems, nothing was {done}", listed)


def _apply(connection: Connection, key: ObjectKey, body: bytes, *, dry_run: bool, abort: Abort | None) -> Outcome:
    try:
        return apply_object(connection, _path(key), body, field_manager=FIELD_MANAGER, dry_run=dry_run, abort=abort)
    except ApiError as error:
        raise _named(error, f"apply of AppModel {key}", connection) from error


def _path(key: ObjectKey) -> str:
    return path_of(*APPMODELS.api_path, "namespaces", key.namespace, APPMODELS.plural, key.name)


def _named(error: ApiError, what: str, connection: Connection) -> ApiError:
    """Return the error under the object's name, with the reason of a 404 and its remedy if discovery gives them."""
    message = error.message
    if error.status == HTTPStatus.NOT_FOUND and error.reason != "NotFound":
        served = find_served(connection, APPMODELS.group, APPMODELS.version, APPMODELS.plural)
        because = missing_because(served, APPMODELS.group, APPMODELS.version, APPMODELS.plural, namespaced=True)
        message = f"{message}: {because} (`shmroute crd install` installs the definition)"
    return ApiError(
        what,
        error.status,
        error.reason,
        message,
        retry_after_seconds=error.retry_after_seconds,
        details=error.details,
    )
