"""The test API server: its parts combined, and the controls for tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from .auth import Auth
from .encoding import Object
from .faults import Faults
from .http import HttpServer
from .kubeconfig import write_kubeconfig
from .lists import Lister
from .objects import Objects
from .reply import Aborted, Reply
from .request import WAIT_SECONDS, Request, RequestLog
from .routes import Routes
from .status import ApiError
from .tls import Certificates
from .watches import Settings, Watches


class ApiServer(Objects):
    """A Kubernetes API server for tests; use it as a context manager.

    Out of the box it serves AppModels, EndpointSlices, Services and CustomResourceDefinitions,
    empty, to every client with the token `api.auth.token`.
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
        """Start the server. crd: install the AppModel definition. The parts of that name explain the others."""
        super().__init__(revision, establish_after)
        self.auth = Auth(token)
        self.settings = settings or Settings()
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

    def __enter__(self) -> Self:
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
        self.faults.rules.clear()
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
        ca = self.certificates.ca if self.certificates else None
        return write_kubeconfig(Path(path), self.url, user, ca)

    def use_certificates(self, certificates: Certificates) -> None:
        """Serve other certificates from the next connection on (a rotated CA)."""
        self.certificates = certificates
        self.http.tls = certificates.context()

    # -- what clients do --------------------------------------------------------------------

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

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return self.http.accepted

    def open_watches(self, resource: str | None = None) -> int:
        with self.store.lock:
            return sum(resource in (None, each.table.kind.plural) for each in self.watches.open)

    def wait_for_watches(self, count: int = 1, resource: str | None = None, timeout: float = WAIT_SECONDS) -> None:
        """Wait until this number of watches is open. Raises TimeoutError if they are not."""
        self.wait_until(lambda: self.open_watches(resource) >= count, timeout)

    def wait_watched(self) -> None:
        """Wait until there is one watch and no streaming list: one whose client has gone is open for a while still."""
        self.wait_until(lambda: [each.streaming_list for each in self.watches.open] == [False])

    def wait_until(self, true: Callable[[], bool], timeout: float = WAIT_SECONDS) -> None:
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
            self.faults.rules.shape(request, reply)
            self.routes.answer(request, reply)
        except ApiError as error:
            content_type = "text/plain; charset=utf-8" if error.plain else "application/json"
            reply.send(error.code, error.body(), content_type, error.headers)
        except (Aborted, OSError):
            raise
        except Exception as error:
            self.errors.append(error)
            raise Aborted from error
