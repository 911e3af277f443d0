"""Routing of requests: authentication, then the requested list, watch, object or write."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import yaml

from . import merging, selectors, status
from .auth import Auth
from .encoding import Object, dumps, loads
from .kinds import Kind
from .lists import Lister
from .reply import Reply
from .request import Request
from .selectors import Selector
from .status import ApiError, bad_request
from .store import Store, Table, object_key
from .versions import InVersion, converted
from .watches import Watch, Watches
from .writes import Options, Outcome, Writer

VERSION = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.2",
    "gitCommit": "$Format:%H$",
    "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "go1.27.3",
    "compiler": "gc",
    "platform": "linux/amd64",
}

_PUBLIC = ("/version", "/readyz", "/livez", "/healthz")

_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


class Routes:
    """Answers requests from one store."""

    def __init__(self, store: Store, writer: Writer, lister: Lister, watches: Watches, auth: Auth) -> None:
        self.store = store
        self.writer = writer
        self.lister = lister
        self.watches = watches
        self.auth = auth

    def answer(self, request: Request, reply: Reply) -> None:
        """Send the response; ApiError where it is a refusal."""
        if request.path in _PUBLIC and "authorization" not in request.headers:
            user = "system:anonymous"
        else:
            user = self.auth.authenticate(request.headers.get("authorization", ""))
        if not request.verb:
            self._outside(request, reply)
            return
        self.auth.authorize(
            user,
            request.verb,
            request.group,
            request.resource,
            request.namespace or "",
            request.name,
        )
        table = self._table(request)
        if request.version != table.kind.version:
            reply = cast("Reply", InVersion(reply, table.kind.in_version(request.version), table.kind))
        match request.verb:
            case "list":
                partial = "as=PartialObjectMetadataList" in request.headers.get("accept", "")
                body = self.lister.list(table, _selector(table, request), request.query, metadata_only=partial)
                reply.send(200, body)
            case "watch":
                self._watch(table, request, reply)
            case "get":
                self._get(table, request, reply)
            case "deletecollection":
                self._delete_all(table, request, reply)
            case _:
                self._write(table, request, reply)

    def _table(self, request: Request) -> Table:
        table = self.store.table(request.group, request.resource)
        if table is None or request.version not in table.kind.served:
            raise status.page_not_found()
        cluster_wide = request.namespace is None
        if not table.kind.namespaced and not cluster_wide:
            raise status.page_not_found()
        if table.kind.namespaced and cluster_wide and request.verb not in ("list", "watch"):
            raise status.page_not_found()
        if request.subresource and request.subresource != "status":
            raise status.page_not_found()
        return table

    def _outside(self, request: Request, reply: Reply) -> None:
        match request.path.rstrip("/"):
            case "/version":
                reply.send(200, json.dumps(VERSION, indent=2).encode())
            case "/readyz" | "/livez" | "/healthz":
                reply.send(200, b"ok", "text/plain; charset=utf-8")
            case path:
                found = self._discovery(path)
                if found is None:
                    raise status.page_not_found()
                reply.send(200, dumps(found) + b"\n")

    def _discovery(self, path: str) -> Object | None:
        """Return enough of the discovery API for clients that ask for it."""
        with self.store.lock:
            kinds = [table.kind for table in self.store.tables.values()]
            terminating = {table.kind.resource for table in self.store.tables.values() if table.terminating}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = [_group(group, kinds) for group in sorted({kind.group for kind in kinds if kind.group})]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        api_version = path.removeprefix("/apis/").removeprefix("/api/")
        if path.startswith("/apis/") and "/" not in api_version:
            found = _group(api_version, kinds)
            return {"kind": "APIGroup", "apiVersion": "v1", **found} if found["versions"] else None
        resources = [
            {
                "name": kind.plural,
                "singularName": kind.kind.lower(),
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": [verb for verb in _VERBS if verb != "create" or kind.resource not in terminating],
            }
            for kind in kinds
            if api_version in (kind.in_version(each).api_version for each in kind.served)
        ]
        if not resources:
            return None
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api_version,
            "resources": resources,
        }

    def _get(self, table: Table, request: Request, reply: Reply) -> None:
        kind = table.kind
        item = table.items.get(object_key(request.namespace or "", request.name))
        if item is None:
            raise status.not_found(kind.group, kind.plural, request.name)
        reply.send(200, kind.whole(item.element) + b"\n")

    def _watch(self, table: Table, request: Request, reply: Reply) -> None:
        self.watches.check(request.query)
        selector = _selector(table, request)
        watch = Watch(table, selector, request.query, reply.send_lines, reply.alive)
        reply.start()
        self.watches.run(watch)
        reply.finish()

    def _write(self, table: Table, request: Request, reply: Reply) -> None:
        outcome = self._written(table, request)
        headers = [("Warning", f"299 - {json.dumps(text)}") for text in outcome.warnings]
        kind = table.kind
        if outcome.gone:
            details: Object = {"name": request.name}
            if kind.group:
                details["group"] = kind.group
            details["kind"] = kind.plural
            details["uid"] = outcome.item.decode()["metadata"].get("uid", "")
            body = dumps(status.success(details))
        else:
            body = kind.whole(outcome.item.element)
        reply.send(outcome.code, body + b"\n", headers=headers)

    def _written(self, table: Table, request: Request) -> Outcome:
        namespace, name = request.namespace or "", request.name
        options = _options(request, table.kind.in_version(request.version))
        if request.verb == "delete":
            return self.writer.delete(table, namespace, name)
        body = parse_body(request)
        if request.version != table.kind.version:
            body = converted(body, table.kind.in_version(request.version), table.kind)
        if request.verb == "create":
            return self.writer.create(table, body, namespace, options)
        if request.verb == "update":
            return self.writer.replace(table, body, namespace, name, options)
        match request.headers.get("content-type", "").partition(";")[0]:
            case "application/apply-patch+yaml" | "application/apply-patch+json":
                if not request.query.get("fieldManager"):
                    text = "Required value: is required for apply patch"
                    raise status.invalid_options("PatchOptions", "fieldManager", "FieldValueRequired", text)
                return self.writer.apply(table, body, namespace, name, options)
            case "application/merge-patch+json":
                change = _merge(body)
            case "application/strategic-merge-patch+json" if not table.kind.custom:
                # Lists of the kinds here have no merge keys worth a second algorithm.
                change = _merge(body)
            case "application/json-patch+json" if isinstance(body, list):
                change = _operations(body)
            case _:
                raise ApiError(
                    415,
                    "the body of the request was in an unknown format - accepted media types "
                    "include: application/json-patch+json, application/merge-patch+json, "
                    "application/apply-patch+yaml",
                    "UnsupportedMediaType",
                )
        return self.writer.patch(table, change, namespace, name, options)

    def _delete_all(self, table: Table, request: Request, reply: Reply) -> None:
        selector = _selector(table, request)
        with self.store.lock:
            body = self.lister.list(table, selector, {})
            for item in list(table.items.values()):
                if selector.matches(item.namespace, item.name, item.labels):
                    self.writer.delete(table, item.namespace, item.name)
        reply.send(200, body)


def _merge(patch: Any) -> Callable[[Object], Object]:
    if not isinstance(patch, dict):
        raise bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")

    def change(obj: Object) -> Object:
        merged: Object = merging.merge_patch(obj, patch)
        return merged

    return change


def _operations(operations: list[Object]) -> Callable[[Object], Object]:
    return lambda obj: merging.json_patch(obj, operations)


def _selector(table: Table, request: Request) -> Selector:
    namespace = request.namespace if table.kind.namespaced else None
    labels = request.query.get("labelSelector", "")
    return selectors.parse(table.kind, namespace, labels, request.query.get("fieldSelector", ""))


def _group(group: str, kinds: list[Kind]) -> Object:
    versions = sorted({version for kind in kinds if kind.group == group for version in kind.served})
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0] if listed else None}


def _options(request: Request, kind: Kind) -> Options:
    query = request.query
    return Options(
        manager=query.get("fieldManager") or request.user_agent.partition("/")[0] or "unknown",
        force=query.get("force", "") in ("1", "true"),
        dry_run=query.get("dryRun") == "All",
        strict=query.get("fieldValidation") == "Strict",
        api_version=kind.api_version,
    )


def parse_body(request: Request) -> Any:
    """Return the body as an object: JSON, or YAML where the content type says so."""
    content_type = request.headers.get("content-type", "")
    try:
        return loads(request.body)
    except ValueError as error:
        if "yaml" not in content_type:
            raise bad_request(f"error decoding JSON: {error}") from error
    try:
        return yaml.safe_load(request.body)
    except yaml.YAMLError as error:
        raise bad_request(f"error decoding YAML: {error}") from error
