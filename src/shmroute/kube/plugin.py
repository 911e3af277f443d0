"""Credentials from an exec plugin, such as `aws eks get-token`, by client-go's `plugin/pkg/client/auth/exec`.

Called by `shmroute.kube.configuration` for each request. A plugin runs when its last credential has expired. If it
fails, the request fails and the next one runs it again: no request is ever sent without the configured credential.
Each run has a deadline, and its output a limit. No token is logged, or put into an error.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import datetime
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Any, Final

import msgspec

from shmroute.errors import ConfigError
from shmroute.kube.kubeconfig import Exec

log = logging.getLogger(__name__)

RUN_SECONDS: Final = 30.0
"""Longest run of a plugin, in seconds. It calls a service on the network; the plugins of AWS and Azure give up by
themselves after this time."""

INTERACTIVE_RUN_SECONDS: Final = 300.0
"""Longest run that may ask a person, in seconds: time to log in with a browser and a second factor."""

OUTPUT_MAX_BYTES: Final = 1 << 20
"""Largest output of a plugin, in bytes. A token and a certificate chain have some 10 kB."""

REPORTED_CHARACTERS: Final = 500
"""Characters of a plugin's error output, counted from its end, that an error shows."""

_PR_SET_PDEATHSIG: Final = 1

_libc: Final = ctypes.CDLL(None, use_errno=True)


class ExecCredential(msgspec.Struct, frozen=True):
    """Credential from a plugin: a token, a client certificate with its key (PEM), or both; missing parts are ""."""

    token: str = ""
    certificate: str = ""
    key: str = ""
    expires: datetime.datetime | None = None

    def has_expired(self) -> bool:
        return self.expires is not None and datetime.datetime.now(datetime.UTC) > self.expires


class _Status(msgspec.Struct, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: datetime.datetime | None = None


class _Answer(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    status: _Status | None = None


class ExecPlugin:
    """One plugin of one user. Thread-safe; one run at a time, and all waiting threads share its outcome."""

    def __init__(self, config: Exec, cluster: dict[str, Any], where: str) -> None:
        """`cluster` is passed to a plugin that asks for it; `where` names the kubeconfig and context in errors."""
        self.name = f"exec plugin {config.command!r}"
        self._config = config
        self._cluster = cluster
        self._where = where
        self._lock = threading.Lock()
        self._credential: ExecCredential | None = None
        self._runs = 0
        self._failure: ConfigError | None = None

    def credential(self) -> ExecCredential:
        """Return the current credential. Raises `ConfigError` if the plugin fails."""
        runs = self._runs
        with self._lock:
            if self._credential is not None and not self._credential.has_expired():
                return self._credential
            if self._failure is not None and self._runs != runs:
                raise ConfigError(str(self._failure))  # it has just failed, while this thread waited for it
            try:
                self._credential, self._failure = self._run(), None
            except ConfigError as error:
                self._credential, self._failure = None, error
                raise
            finally:
                self._runs += 1
            return self._credential

    def _run(self) -> ExecCredential:
        interactive = self._is_interactive()
        spec: dict[str, Any] = {"interactive": interactive}
        if self._config.provide_cluster_info:
            spec["cluster"] = self._cluster
        info = {"apiVersion": self._config.api_version, "kind": "ExecCredential", "spec": spec}
        environment = {
            **os.environ,
            **{variable.name: variable.value for variable in self._config.env},
            "KUBERNETES_EXEC_INFO": msgspec.json.encode(info).decode(),
        }
        seconds = INTERACTIVE_RUN_SECONDS if interactive else RUN_SECONDS
        log.debug("%s: running %s", self._where, self.name)
        try:
            run = _Run([self._config.command, *self._config.args], environment, interactive=interactive)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            hint = f" ({self._config.install_hint.strip()})" if self._config.install_hint else ""
            raise self._failed(f"it cannot be started: {error}{hint}") from error
        try:
            output, complaint = run.output(time.monotonic() + seconds)
        except TimeoutError as error:
            raise self._failed(f"it gave no answer within {seconds:g} s and was ended") from error
        except OverflowError as error:
            raise self._failed(f"it wrote more than {OUTPUT_MAX_BYTES} bytes and was ended") from error
        finally:
            run.end()
        if run.status:
            raise self._failed(f"it ended with status {run.status}: {complaint or 'no error message'}")
        return self._read(output)

    def _is_interactive(self) -> bool:
        """Return whether the plugin may ask the person at the terminal."""
        terminal = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
        if self._config.interactive_mode == "Always" and not terminal:
            raise self._failed("its interactiveMode is Always, and standard input is not a terminal")
        return terminal and self._config.interactive_mode != "Never"

    def _read(self, output: bytes) -> ExecCredential:
        try:
            answer = msgspec.json.decode(output, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._failed(f"its output is not an ExecCredential: {error}") from error
        if answer.kind != "ExecCredential" or answer.api_version != self._config.api_version:
            raise self._failed(
                f"it answered with {answer.api_version[:80]} {answer.kind[:80]},"
                f" and {self._config.api_version} ExecCredential is configured"
            )
        status = answer.status or _Status()
        token, certificate, key = status.token, status.client_certificate_data, status.client_key_data
        expires = status.expiration_timestamp
        if not token and not certificate and not key:
            raise self._failed("it gave neither a token nor a client certificate")
        if bool(certificate) != bool(key):
            raise self._failed("it gave only one of a client certificate and its key")
        if expires is not None and expires.tzinfo is None:
            raise self._failed("expirationTimestamp has no time zone")
        return ExecCredential(token or "", certificate or "", key or "", expires)

    def _failed(self, problem: str) -> ConfigError:
        return ConfigError(f"{self._where}: {self.name}: {problem}")


class _Run:
    """One process of a plugin. It ends when we end, even if we are killed."""

    _running: Final[set[_Run]] = set()

    def __init__(self, command: list[str], environment: dict[str, str], *, interactive: bool) -> None:
        self._own_session = not interactive  # a plugin that asks at the terminal must stay in our session
        self._process = subprocess.Popen(
            command,
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if interactive else subprocess.PIPE,
            env=environment,
            start_new_session=self._own_session,
            preexec_fn=_end_with_parent,  # one system call, which waits for no lock
        )
        self._running.add(self)

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.returncode

    def output(self, deadline: float) -> tuple[bytes, str]:
        """Return its output, and the end of its error output. Raises `TimeoutError` and `OverflowError`."""
        pipes = [pipe for pipe in (self._process.stdout, self._process.stderr) if pipe is not None]
        written: dict[IO[bytes], bytearray] = {pipe: bytearray() for pipe in pipes}
        with selectors.DefaultSelector() as selector:
            for pipe in pipes:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                if not (ready := selector.select(max(0.0, deadline - time.monotonic()))):
                    raise TimeoutError
                for key, _ in ready:
                    pipe = next(each for each in pipes if each is key.fileobj)
                    if not (data := os.read(pipe.fileno(), 1 << 16)):
                        selector.unregister(pipe)
                    written[pipe] += data
                    if len(written[pipe]) > OUTPUT_MAX_BYTES:
                        raise OverflowError
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        output, *rest = (bytes(written[pipe]) for pipe in pipes)
        complaint = rest[0].decode("utf-8", "replace").strip() if rest else ""
        return output, complaint[-REPORTED_CHARACTERS:]

    def end(self) -> None:
        """Kill it and its children if it still runs, and close its pipes."""
        if self._process.returncode is None:
            self._kill()
            self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._running.discard(self)

    @classmethod
    def end_all(cls) -> None:
        """Kill all running plugins: one in an abandoned thread must not outlive the interpreter."""
        for run in list(cls._running):
            run._kill()

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            if self._own_session:
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()


atexit.register(_Run.end_all)


def _end_with_parent() -> None:
    """Ask the kernel to kill this new process when its parent dies. Only Linux can."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
