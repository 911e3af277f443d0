"""Configuration of a cluster: its address, the connection pool to it, and our credentials.

`ClusterConfiguration.load` finds a kubeconfig (a path, `KUBECONFIG`, `~/.kube/config`) or a pod's service account, and
gives `shmroute.kube.connection` what it needs: the server's URL, a pool of connections, and the headers of a
request. One object holds one reading: after a change of one of its files the connection loads a new one.

Certificates and keys go from memory into the TLS context: no temporary files are needed.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import socket
import ssl
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from urllib3 import HTTPHeaderDict, PoolManager, ProxyManager

from shmroute.errors import ConfigError
from shmroute.kube.files import file_state, read_small_file
from shmroute.kube.kubeconfig import Choice, Cluster, User, check_namespace, choose, find_kubeconfigs
from shmroute.kube.plugin import ExecCredential, ExecPlugin
from shmroute.kube.proxy import find_proxy
from shmroute.kube.transport import POOLS

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

KEEPALIVE_IDLE_SECONDS: Final = 10
KEEPALIVE_INTERVAL_SECONDS: Final = 5
KEEPALIVE_COUNT: Final = 3
"""Keep-alive: the kernel closes an idle connection to a dead peer after 10 + 3 * 5 = 25 s. A dead peer must be noticed
within 30 s; client-go's 30 + 9 * 15 s would be far too long."""

USER_TIMEOUT_MILLISECONDS: Final = 20_000
"""TCP_USER_TIMEOUT: sent bytes without acknowledgement end the connection after this; Linux's default is 15 minutes."""

IDLE_CONNECTIONS: Final = 100
"""Idle connections that are kept. Each table has a watch and a probe; with urllib3's default of 1, connections would be
closed after each probe, with a warning for each."""

_EXEC_EXTENSION: Final = "client.authentication.k8s.io/exec"
"""Name of the cluster's extension that is passed to a plugin (Kubernetes KEP-541)."""

_HEADER_KEY_SAFE: Final = "!#$&'*+-.^_`|~"
"""Characters besides letters and digits that a header's name may hold unescaped: client-go's `legalHeaderKeyBytes`
without %."""


class ClusterConfiguration:
    """One reading of the configuration.

    `host` is the server's URL without a slash at its end, `namespace` the default namespace of the context or of the
    service account.
    """

    def __init__(self, choice: Choice, files: list[str]) -> None:
        """Raises `ConfigError` for everything that kubectl would refuse."""
        state = [file_state(path) for path in files]  # before reading, so that a change meanwhile is noticed
        cluster, user = choice.cluster, choice.user
        self.host = _server_url(choice)
        self.namespace = choice.namespace or "default"
        self._where = choice.where
        self._state = state
        self._lock = threading.Lock()
        """Guards the pool and the certificate in it."""
        self._certificate = ("", "")
        self._make_pool = _pool_maker(self.host, cluster, choice.where)
        self._impersonation = _impersonation(user, choice.where)
        self._authorization, certificate = "", None
        self._plugin: ExecPlugin | None = None
        if _has_credentials(user):
            self._authorization = _authorization(user, choice.where)
            certificate = _pair(user)
        elif user.exec is not None:
            self._plugin = ExecPlugin(user.exec, _cluster_info(self.host, cluster), choice.where)
        self._pool = self._make_pool(certificate)

    @classmethod
    def load(cls, kubeconfig: str | None, context: str | None) -> ClusterConfiguration:
        """Read the configuration. Raises `ConfigError` if there is no usable one."""
        paths = find_kubeconfigs(kubeconfig)
        choice = choose(paths, context)
        if choice is None:
            choice = _service_account(os.pathsep.join(paths))
        cluster, user = choice.cluster, choice.user
        named = (cluster.certificate_authority, user.client_certificate, user.client_key, user.token_file)
        return cls(choice, [*paths, *(path for path in named if path)])

    def changed(self) -> bool:
        """Return whether one of the files has changed since this reading."""
        return self._state != [file_state(path) for path, *_ in self._state]

    def authenticate(self) -> tuple[PoolManager, HTTPHeaderDict]:
        """Return the pool for a request, and its authentication headers. Runs the exec plugin if needed.

        Raises `ConfigError` if the plugin gives no credential.
        """
        authorization = self._authorization
        if self._plugin is not None:
            credential = self._plugin.credential()
            authorization = f"Bearer {_header(credential.token, self._where, 'token')}" if credential.token else ""
            self._use_certificate(credential)
        headers = HTTPHeaderDict()
        if authorization:
            headers.add("Authorization", authorization)
        for name, value in self._impersonation:
            headers.add(name, value)
        return self._pool, headers

    def drop_idle(self) -> None:
        """Close the idle connections. Running requests continue."""
        self._pool.clear()

    def _use_certificate(self, credential: ExecCredential) -> None:
        """Make a new pool if the plugin has given a different certificate than before."""
        pair = (credential.certificate, credential.key)
        with self._lock:
            if pair == self._certificate:
                return
            pool = self._make_pool((pair[0].encode(), pair[1].encode()) if pair[0] else None)
            self._pool.clear()
            self._pool, self._certificate = pool, pair


# --- finding ---------------------------------------------------------------------------------------------------


def _service_account(kubeconfigs: str) -> Choice:
    """Return the service account of our pod, found by the official client's paths."""
    # Imported here, and nowhere else: it takes 0.3 s of processor time and 20 MiB, and a kubeconfig does without.
    from kubernetes.config import incluster_config

    token_file, authority = incluster_config.SERVICE_TOKEN_FILENAME, incluster_config.SERVICE_CERT_FILENAME
    host, port = (os.environ.get(name, "") for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"))
    problem = ""
    if not host or not port:
        problem = "KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set"
    elif not Path(token_file).exists():
        problem = f"there is no {token_file}"
    if problem:
        raise ConfigError(
            f"no cluster is configured: {kubeconfigs} is missing or empty, and this is not a pod with a service"
            f" account ({problem}). Give --kubeconfig (SHMROUTE_KUBECONFIG), or watch a"
            " folder with --manifests (SHMROUTE_MANIFESTS)"
        )
    try:
        namespace = read_small_file(str(Path(token_file).with_name("namespace")), "namespace").decode().strip()
    except (ConfigError, UnicodeDecodeError):
        namespace = ""  # a token may be mounted without the namespace
    if namespace:
        check_namespace(namespace, "the pod's namespace")
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    cluster = Cluster(server=server, certificate_authority=authority)
    return Choice(cluster, User(token_file=token_file), namespace, "the pod's service account")


def _server_url(choice: Choice) -> str:
    """Return the checked URL of the server. Raises `ConfigError` for one that kubectl would use in a surprising way.

    kubectl reads `HOST:PORT` as http:// whatever else the cluster says, and sends no credentials without
    TLS; it asks the person at the terminal if a user has no credentials.
    """
    server, user = choice.cluster.server, choice.user
    try:
        parts = urlsplit(server)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{choice.where}: server is not a URL: {error}") from error
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    printable = all("!" <= character <= "~" for character in server)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain or not printable or port == 0:
        raise ConfigError(f"{choice.where}: server is not a URL of the form https://HOST:PORT or http://HOST:PORT")
    if parts.scheme == "http" and not _is_local(parts.hostname) and user != User():
        raise ConfigError(
            f"{choice.where}: server is http:// and not on this machine, and credentials are not sent without TLS:"
            " use https://, or a context without a user"
        )
    if parts.scheme == "https" and not _has_credentials(user) and user.exec is None:
        raise ConfigError(
            f"{choice.where}: its user has no credentials: give a token, a client certificate, a username or exec"
        )
    return parts.geturl().rstrip("/")


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


# --- who we are ------------------------------------------------------------------------------------------------


def _has_credentials(user: User) -> bool:
    """Return whether the user has credentials besides a plugin: kubectl does not run the plugin then."""
    certificate = user.client_certificate or user.client_certificate_data
    return bool(user.token or user.token_file or user.username or certificate)


def _authorization(user: User, where: str) -> str:
    """Return the value of the Authorization header. A token file is preferred to a token, if it is readable."""
    if user.username:
        return f"Basic {base64.b64encode(f'{user.username}:{user.password}'.encode()).decode()}"
    token = user.token
    if user.token_file:
        try:
            token = _token_of(user.token_file)
        except ConfigError as error:
            if not user.token:
                raise
            log.warning("%s: %s; using the token beside it", where, error)
    return f"Bearer {_header(token, where, 'token')}" if token else ""


def _token_of(path: str) -> str:
    token = read_small_file(path, "token file").strip()
    if not token or not token.isascii():
        raise ConfigError(f"token file {path} holds no token")
    return token.decode()


def _impersonation(user: User, where: str) -> list[tuple[str, str]]:
    """Return the headers of client-go's `impersonatingRoundTripper`."""
    if not user.impersonate:
        return []
    headers = [("Impersonate-User", user.impersonate)]
    if user.impersonate_uid:
        headers.append(("Impersonate-Uid", user.impersonate_uid))
    headers += (("Impersonate-Group", group) for group in user.impersonate_groups)
    for key, values in user.impersonate_extra.items():
        headers += ((f"Impersonate-Extra-{quote(key, safe=_HEADER_KEY_SAFE)}", value) for value in values)
    return [(name, _header(value, where, "impersonation")) for name, value in headers]


def _header(value: str, where: str, what: str) -> str:
    """Return a header's value in http.client's form: one character for each byte of its UTF-8."""
    if any(character < " " or character == "\x7f" for character in value):
        raise ConfigError(f"{where}: {what} holds control characters")
    return value.encode().decode("latin-1")


def _cluster_info(host: str, cluster: Cluster) -> dict[str, Any]:
    """Return the input of a plugin with `provideClusterInfo`: `Cluster` of client.authentication.k8s.io/v1."""
    authority = _authority(cluster)
    extensions = cluster.extensions if isinstance(cluster.extensions, list) else []
    own = [each for each in extensions if isinstance(each, dict) and each.get("name") == _EXEC_EXTENSION]
    info = {
        "server": host,
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
        "certificate-authority-data": base64.b64encode(authority).decode(),
        "proxy-url": cluster.proxy_url,
        "disable-compression": cluster.disable_compression,
        "config": own[0].get("extension") if own else None,
    }
    return {name: value for name, value in info.items() if value}


# --- how to reach it -------------------------------------------------------------------------------------------


def _pool_maker(host: str, cluster: Cluster, where: str) -> Callable[[tuple[bytes, bytes] | None], PoolManager]:
    """Return a function that makes a pool for a client certificate with its key, or None."""
    proxy = find_proxy(host, cluster.proxy_url, os.environ)
    authority = _authority(cluster)
    if cluster.insecure_skip_tls_verify:
        log.warning("%s: insecure-skip-tls-verify: the server's certificate is not verified", where)

    options: dict[str, Any] = {
        "retries": False,
        "maxsize": IDLE_CONNECTIONS,
        "socket_options": socket_options(),
        "cert_reqs": ssl.CERT_NONE if cluster.insecure_skip_tls_verify else ssl.CERT_REQUIRED,
    }
    if cluster.tls_server_name:
        options["server_hostname"] = cluster.tls_server_name

    def make(certificate: tuple[bytes, bytes] | None) -> PoolManager:
        context = _ssl_context(cluster, authority, certificate, where)
        pool: PoolManager
        if proxy is None:
            pool = PoolManager(**options, ssl_context=context)
        else:
            headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else None
            pool = ProxyManager(
                proxy.url, **options, ssl_context=context, proxy_ssl_context=context, proxy_headers=headers
            )
        pool.pool_classes_by_scheme = POOLS
        return pool

    return make


def socket_options() -> list[tuple[int, int, int]]:
    """Return options that turn Nagle off and let the kernel notice a dead peer within 25 s, busy or idle."""
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    # Some systems lack some of these (macOS has neither TCP_KEEPIDLE nor TCP_USER_TIMEOUT).
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MILLISECONDS),
    ):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def _ssl_context(
    cluster: Cluster, authority: bytes, certificate: tuple[bytes, bytes] | None, where: str
) -> ssl.SSLContext:
    """Return a context that accepts the certificates that kubectl accepts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Python 3.13 and newer verify strictly by RFC 5280, which many clusters' own authorities do not satisfy.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False  # like Go, which reads names only from subjectAltName
    if cluster.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    what = "certificate authority"
    try:
        if authority:
            context.load_verify_locations(cadata=authority.decode("ascii", "ignore"))
        else:
            context.load_default_certs()
        what = "client certificate or its key"
        if certificate:
            _load_pair(context, *certificate)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{where}: {what} cannot be used: {error}") from error
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a certificate and its key: Python loads them only from files. Linux has files in memory."""
    with ExitStack() as stack:
        if sys.platform == "linux":
            descriptor = os.memfd_create("shmroute-certificate", os.MFD_CLOEXEC)
            file = stack.enter_context(os.fdopen(descriptor, "wb", buffering=0))
            path = f"/proc/self/fd/{descriptor}"
        else:
            file = stack.enter_context(tempfile.NamedTemporaryFile(buffering=0))  # mode 0600, removed at the end
            path = file.name
        file.write(certificate.rstrip() + b"\n" + key)
        # Without a password argument, OpenSSL asks for one at the terminal.
        context.load_cert_chain(path, password=b"")


def _authority(cluster: Cluster) -> bytes:
    return _file_or_data(cluster.certificate_authority, cluster.certificate_authority_data, "certificate authority")


def _pair(user: User) -> tuple[bytes, bytes] | None:
    certificate = _file_or_data(user.client_certificate, user.client_certificate_data, "client certificate")
    key = _file_or_data(user.client_key, user.client_key_data, "client key")
    return (certificate, key) if certificate else None


def _file_or_data(path: str, data: str, what: str) -> bytes:
    """Return the PEM from a file, or from a kubeconfig's base64; b"" if neither is set."""
    if path:
        content = read_small_file(path, what)
        if not content.strip():
            raise ConfigError(f"{what} {path} is empty")
        return content
    return base64.b64decode("".join(data.split()))
