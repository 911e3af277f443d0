"""The test API server: everything wired together, and the controls a test has over it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from .auth import Auth
from .definitions import Definitions
from .encoding import Object
from .faults import Faults
from .http import HttpServer
from .kinds import BUILT_IN, Kind
from .lists import Lister
from .reply import Aborted, Reply
from .request import Request, RequestLog
from .routes import Routes
from .samples import app_model_definition
from .status import ApiError
from .store import Item, Store, Table, object_key
from .tls import Certificates
from .watches import Settings, Watches
from .writes import Options, Outcome, Writer

#: What direct writes of a test sign with in managedFields.
TEST_MANAGER = "tests"


class ApiServer:
    """A Kubernetes API server for tests; use it as a context manager.

    Out of the box it serves AppModels, EndpointSlices, Services and CustomResourceDefinitions,
    empty, to whoever shows the token `api.auth.token`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "test-token",
        crd: bool = True,
        establish_after: float | None = 0.05,
        revision: int = 100,
        progress: bool = True,
        freshness_timeout: float = 0.1,
        settings: Settings | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        """crd: the AppModel definition is installed. For the rest see the parts of that name."""
        self.store = Store(revision)
        self.writer = Writer(self.store)
        self.auth = Auth(token)
        self.settings = settings or Settings()
        self.definitions = Definitions(self.store, self.writer, establish_after)
        for kind in BUILT_IN:
            self.store.serve(kind)
        self.lister = Lister(self.store, freshness_timeout, progress)
        self.watches = Watches(self.store, self.lister, self.settings)
        self.routes = Routes(self.store, self.writer, self.lister, self.watches, self.auth)
        self.requests = RequestLog()
        self.errors: list[BaseException] = []
        self.certificates = certificates
        tls = certificates.context() if certificates else None
        self.http = HttpServer(self._handle, host, port, tls)
        self.faults = Faults(self.http, self.store, self.watches)
        if crd:
            self.install()
        self.http.listen()

    def __enter__(self) -> ApiServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the port and all connections, join all threads."""
        self.definitions.close()
        self.faults.clear_rules()
        self.http.close()
        if self.errors:
            raise RuntimeError("the test server itself failed") from self.errors[0]

    # -- where it is ------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return self.http.port

    @property
    def url(self) -> str:
        scheme = "https" if self.certificates else "http"
        return f"{scheme}://{self.http.host}:{self.port}"

    def kubeconfig(self, path: Path | str, *, token_file: Path | str | None = None) -> Path:
        """Write a kubeconfig for this server; with token_file the token stands there instead."""
        user: Object = {"token": self.auth.token}
        if token_file is not None:
            Path(token_file).write_text(self.auth.token)
            user = {"tokenFile": str(token_file)}
        cluster: Object = {"server": self.url}
        if self.certificates:
            cluster["certificate-authority"] = str(self.certificates.ca)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [
                {
                    "name": "test",
                    "context": {"cluster": "test", "user": "test", "namespace": "default"},
                }
            ],
            "current-context": "test",
        }
        Path(path).write_text(yaml.safe_dump(config))
        return Path(path)

    def use_certificates(self, certificates: Certificates) -> None:
        """Serve other certificates from the next connection on (a rotated CA)."""
        self.certificates = certificates
        self.http.tls = certificates.context()

    # -- objects ----------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The storage's global revision."""
        return self.store.revision

    def install(self, definition: Object | None = None) -> None:
        """Install a CustomResourceDefinition, established at once; default: AppModel's."""
        obj = definition or app_model_definition()
        table = self.definitions.table
        after, self.definitions.establish_after = self.definitions.establish_after, None
        try:
            self.writer.apply(table, obj, "", obj["metadata"]["name"], _options())
        finally:
            self.definitions.establish_after = after
        self.definitions.establish(obj["metadata"]["name"])

    def apply(self, obj: Object, *, manager: str = TEST_MANAGER, force: bool = True) -> Object:
        """Server-side apply, straight into the store. Returns the object; ApiError if refused."""
        table, namespace, name = self._address(obj)
        return self._result(
            table, self.writer.apply(table, obj, namespace, name, _options(manager, force))
        )

    def create(self, obj: Object, *, manager: str = TEST_MANAGER) -> Object:
        table, namespace, _ = self._address(obj)
        return self._result(table, self.writer.create(table, obj, namespace, _options(manager)))

    def replace(self, obj: Object, *, manager: str = TEST_MANAGER) -> Object:
        """Replace the whole object; its resourceVersion, if given, must be the present one."""
        table, namespace, name = self._address(obj)
        metadata = dict(obj["metadata"])
        if not metadata.get("resourceVersion"):
            item = table.items.get(object_key(namespace, name))
            metadata["resourceVersion"] = str(item.revision) if item else ""
        new = {**obj, "metadata": metadata}
        return self._result(
            table, self.writer.replace(table, new, namespace, name, _options(manager))
        )

    def delete(
        self, what: Object | str, name: str | None = None, namespace: str = "default"
    ) -> None:
        """Delete an object, given itself or by resource ("appmodels"), name and namespace."""
        if isinstance(what, str):
            assert name is not None
            table = self.store.find(what)
            self.writer.delete(table, namespace if table.kind.namespaced else "", name)
        else:
            self.writer.delete(*self._address(what))

    def put(self, obj: Object) -> None:
        """Store an object as it is: no validation, no defaults, nothing filled in.

        metadata.resourceVersion is kept if given (it must rise); uid and creationTimestamp are
        filled in where they are missing. For malformed objects, and for recorded ones.
        """
        table, namespace, _ = self._address(obj)
        metadata = {
            "creationTimestamp": self.writer.now(),
            "uid": self.writer.new_uid(),
            "generation": 1,
            **obj["metadata"],
        }
        if table.kind.namespaced:
            metadata["namespace"] = namespace
        self.store.put_raw(table, {**obj, "metadata": metadata})

    def preload(self, objects: Iterable[Object]) -> int:
        """Put many objects in at once, with managedFields; returns how many."""
        count = 0
        managed: dict[tuple[str, ...], Any] = {}
        with self.store.lock:
            for obj in objects:
                spec = obj.get("spec")
                shape = (obj["kind"], *(spec if isinstance(spec, dict) else ()))
                if shape not in managed:
                    self.create(obj)
                    table, namespace, name = self._address(obj)
                    element = table.items[object_key(namespace, name)].decode()
                    managed[shape] = element["metadata"]["managedFields"]
                else:
                    metadata = {**obj["metadata"], "managedFields": managed[shape]}
                    self.put({**obj, "metadata": metadata})
                count += 1
        return count

    def get(self, resource: str, name: str, namespace: str = "default") -> Object | None:
        """The object as stored, or None. resource: "appmodels", "AppModel", ..."""
        table = self.store.find(resource)
        item = table.items.get(object_key(namespace if table.kind.namespaced else "", name))
        return _whole(table.kind, item) if item else None

    def list(self, resource: str, namespace: str | None = None) -> list[Object]:
        """All objects of a kind, sorted by namespace and name."""
        table = self.store.find(resource)
        with self.store.lock:
            items = [table.items[key] for key in table.keys]
        chosen = [item for item in items if namespace in (None, item.namespace)]
        return [_whole(table.kind, item) for item in chosen]

    def load(self, path: Path | str, *, manager: str = TEST_MANAGER) -> int:
        """Apply every document of a YAML file; returns how many."""
        with Path(path).open() as file:
            documents = [each for each in yaml.safe_load_all(file) if each]
        for each in documents:
            if each["kind"] == "CustomResourceDefinition":
                self.install(each)
            else:
                self.apply(each, manager=manager)
        return len(documents)

    def bump(self, count: int = 1) -> int:
        """Raise the global revision as writes to other kinds would; returns it."""
        return self.store.bump(count)

    def bookmark(self, resource: str | None = None) -> int:
        """Send a bookmark into every open watch that allows it, now; returns into how many."""
        chosen = []
        with self.store.lock:
            for watch in self.watches.open:
                if watch.bookmarks and resource in (None, watch.table.kind.plural):
                    watch.table.cache_revision = self.store.revision
                    watch.bookmark_wanted = True
                    chosen.append(watch)
        self.watches.wake()
        return len(chosen)

    # -- what clients do --------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return self.http.accepted

    def open_watches(self, resource: str | None = None) -> int:
        with self.store.lock:
            return sum(resource in (None, each.table.kind.plural) for each in self.watches.open)

    def wait_for_watches(
        self, count: int = 1, resource: str | None = None, timeout: float = 10.0
    ) -> None:
        """Wait until so many watches are open; TimeoutError if they are not."""
        self.wait_until(lambda: self.open_watches(resource) >= count, timeout)

    def wait_until(self, true: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until a condition holds; TimeoutError if it does not in time."""
        deadline = time.monotonic() + timeout
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so within {timeout} s")
            time.sleep(0.005)

    # -- inside -----------------------------------------------------------------------------

    def _handle(self, request: Request, reply: Reply) -> None:
        self.requests.add(request)
        try:
            self.faults.shape(request, reply)
            self.routes.answer(request, reply)
        except ApiError as error:
            content_type = "text/plain; charset=utf-8" if error.plain else "application/json"
            reply.send(error.code, error.body(), content_type, error.headers)
        except (Aborted, OSError):
            raise
        except Exception as error:
            self.errors.append(error)
            raise Aborted from error
        finally:
            request.status = reply.code

    def _address(self, obj: Object) -> tuple[Table, str, str]:
        table = self.store.find(obj["kind"])
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "default") if table.kind.namespaced else ""
        return table, namespace, metadata.get("name", "")

    def _result(self, table: Table, outcome: Outcome) -> Object:
        return _whole(table.kind, outcome.item)


def _options(manager: str = TEST_MANAGER, force: bool = True) -> Options:
    return Options(manager=manager, force=force)


def _whole(kind: Kind, item: Item) -> Object:
    return {"apiVersion": kind.api_version, "kind": kind.kind, **item.decode()}
