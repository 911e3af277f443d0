"""Where the cluster is and how to prove who we are, by the official `kubernetes` client's own rules.

`ClusterConfiguration.load` finds a kubeconfig (a path, `KUBECONFIG`, `~/.kube/config`) or a pod's service
account. The client does the parsing, the exec plugins and the token hooks; this module adds what a process
that lives for months needs: it notices that a file behind the configuration has changed (token, CA,
certificates, kubeconfig), and says what is wrong as a `ConfigError`.

Called by `shmroute.kube.connection`. It sends nothing to the API server and logs no secret.
"""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from urllib3.util.ssl_ import create_urllib3_context

from shmroute.errors import ConfigError

__all__ = ["ClusterConfiguration"]

KEEPALIVE_IDLE_SECONDS = 10
KEEPALIVE_INTERVAL_SECONDS = 5
KEEPALIVE_COUNT = 3
"""An idle connection into nowhere is given up by the kernel after 10 + 3 * 5 = 25 s: under the 30 s in
which a dead peer must be noticed. client-go's 30 + 9 * 15 s would be far over it."""

USER_TIMEOUT_MILLISECONDS = 20_000
"""Bytes sent and never acknowledged end the connection after this; Linux alone would try for 15 minutes."""

DEFAULT_KUBECONFIG = "~/.kube/config"

MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What the client raises, beside its own exception, over a kubeconfig of an unexpected shape."""

FileState: TypeAlias = tuple[str, int, int, int]
"""Path, inode, size and modification time in nanoseconds; zeros where there is no such file."""


class ClusterConfiguration:
    """One reading of the configuration, with the client that was built from it.

    `client` is a `kubernetes.client.ApiClient`, `host` the server's address, `namespace` the default
    namespace of the context or of the service account.
    """

    def __init__(self, configuration: Any, namespace: str, files: list[str]) -> None:
        from kubernetes.client import ApiClient

        configuration.retries = False
        self.client = ApiClient(configuration)
        # Not as `configuration.socket_options`, which older clients do not pass on.
        pool_options = self.client.rest_client.pool_manager.connection_pool_kw
        pool_options["socket_options"] = socket_options()
        pool_options["ssl_context"] = _ssl_context(pool_options)
        self.host: str = configuration.host.rstrip("/")
        self.namespace = namespace
        self._files = files
        self._state = [_file_state(path) for path in files]

    @classmethod
    def load(cls, kubeconfig: str | None, context: str | None) -> ClusterConfiguration:
        """Read the configuration anew. Raises `ConfigError` where there is none that can be used."""
        paths = _kubeconfig_paths(kubeconfig)
        if paths:
            return cls._from_kubeconfig(os.pathsep.join(paths), context)
        if context is not None:
            raise ConfigError(
                f"context {context!r} was asked for, but there is no kubeconfig to look it up in:"
                f" give its path, set KUBECONFIG or write {DEFAULT_KUBECONFIG}"
            )
        return cls._from_service_account()

    @classmethod
    def _from_kubeconfig(cls, paths: str, context: str | None) -> ClusterConfiguration:
        from kubernetes.client import Configuration

        config = _client_config()
        configuration = Configuration()
        try:
            config.load_kube_config(config_file=paths, context=context, client_configuration=configuration)
            contexts, current = config.list_kube_config_contexts(config_file=paths)
            chosen = next((each for each in contexts if each["name"] == context), current)
            namespace = chosen["context"].get("namespace") or "default"
        except (config.ConfigException, yaml.YAMLError, *MALFORMED) as error:
            wanted = f", context {context!r}" if context else ""
            raise ConfigError(f"kubeconfig {paths}{wanted} cannot be used: {error}") from error
        return cls(configuration, namespace, [*paths.split(os.pathsep), *_tls_files(configuration)])

    @classmethod
    def _from_service_account(cls) -> ClusterConfiguration:
        from kubernetes.client import Configuration

        config = _client_config()
        configuration = Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            raise ConfigError(
                "no cluster is configured: no kubeconfig was given, KUBECONFIG is not set, there is no"
                f" {DEFAULT_KUBECONFIG}, and this is no pod with a service account ({error})."
                " Give --kubeconfig, or watch a folder with --manifests"
            ) from error
        token_file = config.incluster_config.SERVICE_TOKEN_FILENAME
        try:
            namespace = Path(token_file).with_name("namespace").read_text().strip() or "default"
        except OSError:
            namespace = "default"
        return cls(configuration, namespace, [token_file, *_tls_files(configuration)])

    def changed(self) -> bool:
        """Whether a file that this reading stands on is not what it was."""
        return self._state != [_file_state(path) for path in self._files]

    def authentication(self) -> dict[str, str]:
        """The headers that say who we are, fresh: the client's refresh hook runs here.

        Raises `ConfigError` where a credential cannot be read.
        """
        try:
            settings = self.client.configuration.auth_settings().values()
        except (_client_config().ConfigException, *MALFORMED) as error:
            raise ConfigError(f"the credentials for {self.host} cannot be read: {error}") from error
        in_header = (each for each in settings if each["in"] == "header" and each["value"])
        return {each["key"]: each["value"].strip() for each in in_header}


def socket_options() -> list[tuple[int, int, int]]:
    """No Nagle, and a black hole noticed by the kernel within 25 s, busy or idle."""
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    # Not every system has each of them (macOS has neither TCP_KEEPIDLE nor TCP_USER_TIMEOUT).
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MILLISECONDS),
    ):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def _ssl_context(pool_options: dict[str, Any]) -> ssl.SSLContext:
    """A context that takes every certificate that kubectl takes; urllib3 adds what `pool_options` names.

    From Python 3.13 on urllib3 asks for certificates strictly after RFC 5280, and those of many a cluster are not: its
    own authority's lacks a key identifier or the key usage.
    """
    context = create_urllib3_context(cert_reqs=pool_options.get("cert_reqs"))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not any(pool_options.get(name) for name in ("ca_certs", "ca_cert_dir", "ca_cert_data")):
        context.load_default_certs()
    return context


def _client_config() -> Any:
    """The client's untyped half that reads configurations; importing it takes 0.2 s, so only on use."""
    from kubernetes import config

    return config


def _kubeconfig_paths(kubeconfig: str | None) -> list[str]:
    """The kubeconfig files there are: the one asked for, those of KUBECONFIG, or the default."""
    named = kubeconfig or os.environ.get("KUBECONFIG")
    asked = [_expanded(path) for path in (named or DEFAULT_KUBECONFIG).split(os.pathsep) if path]
    found = [path for path in asked if Path(path).is_file()]
    if named and not found:
        raise ConfigError(f"kubeconfig {os.pathsep.join(asked)} does not exist")
    return found


def _expanded(path: str) -> str:
    """The path with its `~` resolved; as it is where the user has no home, as in a container without HOME."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        return path


def _tls_files(configuration: Any) -> list[str]:
    paths = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    return [path for path in paths if path]


def _file_state(path: str) -> FileState:
    try:
        stat = Path(path).stat()
    except OSError:
        return (path, 0, 0, 0)
    return (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
