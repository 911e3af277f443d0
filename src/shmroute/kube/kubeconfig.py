"""Find, merge and check kubeconfig files as kubectl does.

Called by `shmroute.kube.configuration`. Every field of the chosen context, cluster and user counts: it has the
meaning that kubectl gives it, or the file is refused with a `ConfigError` that names file, entry and field.
The rules are client-go's `tools/clientcmd` (loader.go, validation.go). This module opens no connection, runs no
plugin and never puts the value of a secret into an error.

Deliberate differences from kubectl:

* A field that kubectl does not know is refused, not ignored. It may be a misspelt field that matters.
* A context whose user is not defined, or has no credentials for https://, is refused. kubectl would ask the person at
  the terminal.
* A key that is written twice in one map is refused. kubectl takes the last one.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, Final

import msgspec

from shmroute.errors import ConfigError
from shmroute.kube.files import read_small_file
from shmroute.manifests.decoding import decode_text
from shmroute.resources.appmodel_rules import DNS_LABEL

DEFAULT_KUBECONFIG: Final = "~/.kube/config"

EXEC_API_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
"""Versions of kubectl's protocol with a plugin; v1alpha1 ended with Kubernetes 1.24."""

INTERACTIVE_MODES: Final = ("Never", "IfAvailable", "Always")


class _Context(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""
    extensions: Any = None


class Cluster(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """A cluster of a kubeconfig; "" and False for fields that are not set. Paths are absolute."""

    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""
    disable_compression: bool = False
    """Has no effect: shmroute never asks for compressed answers."""
    extensions: Any = None
    api_version: str = ""
    """Has no effect: OpenShift 3 wrote it, and no client reads it any more."""


class EnvironmentVariable(msgspec.Struct, forbid_unknown_fields=True):
    """One variable of a plugin's environment."""

    name: str = ""
    value: str = ""


class Exec(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A credential plugin: the program to run, and how."""

    command: str = ""
    args: list[str] = []
    env: list[EnvironmentVariable] = []
    api_version: str = ""
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


class User(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """A user of a kubeconfig; "" for fields that are not set. Paths are absolute."""

    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    impersonate: str = msgspec.field(default="", name="as")
    impersonate_uid: str = msgspec.field(default="", name="as-uid")
    impersonate_groups: list[str] = msgspec.field(default_factory=list, name="as-groups")
    impersonate_extra: dict[str, list[str]] = msgspec.field(default_factory=dict, name="as-user-extra")
    username: str = ""
    password: str = ""
    auth_provider: Any = None
    exec: Exec | None = None
    extensions: Any = None


class Choice(msgspec.Struct, frozen=True):
    """The chosen context: its cluster, its user and its namespace, "" if it names none."""

    cluster: Cluster
    user: User
    namespace: str
    where: str
    """The files and the context, for errors."""


class _Entry(msgspec.Struct, frozen=True):
    """A named map of a kubeconfig, not yet decoded."""

    what: str
    value: dict[str, Any]
    path: str

    def read(self, form: type[Any]) -> Any:
        try:
            return msgspec.convert(self.value, form)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{self.what} of kubeconfig {self.path}: {error}") from error

    def resolved(self, path: str) -> str:
        """Return a path made absolute as by kubectl: relative to the folder of the kubeconfig that names it."""
        return str(Path(self.path).absolute().parent / path) if path else ""


class _Merged(msgspec.Struct):
    """The entries of all files, by name. The first file that sets a name or a value wins; entries are not merged."""

    clusters: dict[str, _Entry] = msgspec.field(default_factory=dict)
    users: dict[str, _Entry] = msgspec.field(default_factory=dict)
    contexts: dict[str, _Entry] = msgspec.field(default_factory=dict)
    current_context: str = ""

    def is_empty(self) -> bool:
        return not (self.clusters or self.users or self.contexts or self.current_context)


def find_kubeconfigs(named: str | None) -> list[str]:
    """Return the paths to read: those of `named` (as in KUBECONFIG), else of KUBECONFIG, else the default one.

    Missing files of a list are included, since they may appear later. Raises `ConfigError` if
    files were named and none of them exists.
    """
    # A path may contain the list separator: if it exists as a whole, it is not split.
    asked = named or os.environ.get("KUBECONFIG") or ""
    paths = [asked] if asked and _exists(asked) else [_expanded(path) for path in asked.split(os.pathsep) if path]
    if asked and not any(_exists(path) for path in paths):
        raise ConfigError(f"kubeconfig {os.pathsep.join(paths) or repr(asked)} does not exist")
    return paths or [_expanded(DEFAULT_KUBECONFIG)]


def choose(paths: list[str], context: str | None) -> Choice | None:
    """Return the entries of `context`, or of the current context. None if the files are missing or empty.

    Raises `ConfigError` for an unusable file or an incomplete context.
    """
    merged = _merge([path for path in paths if _exists(path)])
    joined = os.pathsep.join(paths)
    if merged.is_empty() and context is None:
        return None
    name = context or merged.current_context
    if not name:
        raise ConfigError(f"kubeconfig {joined} has no current-context: set one, or give --context")
    where = f"kubeconfig {joined}, context {name!r}"
    if name not in merged.contexts:
        known = ", ".join(sorted(merged.contexts)) or "none"
        raise ConfigError(f"{where} cannot be used: there is no such context (known: {known})")
    found: _Context = merged.contexts[name].read(_Context)
    if found.namespace:
        check_namespace(found.namespace, f"the namespace of {where}")
    if not found.cluster or found.cluster not in merged.clusters:
        missing = f"its cluster {found.cluster!r} is not defined" if found.cluster else "it names no cluster"
        raise ConfigError(f"{where} cannot be used: {missing}")
    if found.user and found.user not in merged.users:
        raise ConfigError(f"{where} cannot be used: its user {found.user!r} is not defined")
    user = _read_user(merged.users[found.user]) if found.user else User()
    return Choice(_read_cluster(merged.clusters[found.cluster]), user, found.namespace, where)


def check_namespace(name: str, what: str) -> None:
    """Raise `ConfigError` for a name that no namespace can have (RFC 1123).

    An API server lists any other namespace as 200 and empty, so nobody would notice the mistake.
    """
    if not DNS_LABEL.fullmatch(name):
        raise ConfigError(
            f"{what} is {name!r}, which is not the name of a namespace: write one name,"
            " of at most 63 lower-case letters, digits and '-'"
        )


# --- reading and merging ---------------------------------------------------------------------------------------


def _merge(paths: list[str]) -> _Merged:
    merged = _Merged()
    for path in paths:
        document = _read_file(path)
        for field, what, into in (
            ("clusters", "cluster", merged.clusters),
            ("users", "user", merged.users),
            ("contexts", "context", merged.contexts),
        ):
            for name, value in _named(document.get(field), field, what, path).items():
                into.setdefault(name, _Entry(f"{what} {name!r}", value, path))
        current = document.get("current-context", "")
        if not isinstance(current, str):
            raise ConfigError(f"kubeconfig {path}: current-context is not a string")
        merged.current_context = merged.current_context or current
    return merged


def _read_file(path: str) -> dict[str, Any]:
    """Return the only document of a file, without null keys: kubectl treats them as not set."""
    try:
        documents = decode_text(read_small_file(path, "kubeconfig"))
    except ValueError as error:
        raise ConfigError(f"kubeconfig {path} cannot be used: {error}") from error
    document = _without_nulls(documents[0]) if documents else None
    if document is None:
        return {}
    if len(documents) > 1 or not isinstance(document, dict):
        raise ConfigError(f"kubeconfig {path} cannot be used: it is not one YAML map")
    for field, only in (("apiVersion", "v1"), ("kind", "Config")):
        if document.get(field, "") not in ("", only):
            raise ConfigError(f"kubeconfig {path} cannot be used: {field} is {document[field]!r}, not {only!r}")
    known = {"apiVersion", "kind", "clusters", "users", "contexts", "current-context", "preferences", "extensions"}
    if unknown := sorted(document.keys() - known):
        raise ConfigError(f"kubeconfig {path} cannot be used: it has unknown fields: {', '.join(unknown)}")
    return document


def _named(entries: Any, field: str, what: str, path: str) -> dict[str, dict[str, Any]]:
    """Return a list of named maps as a dict by name."""
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(_list(entries, f"kubeconfig {path}: {field}"), 1):
        name = entry.get("name", "") if isinstance(entry, dict) else None
        value = entry.get(what, {}) if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(value, dict) or entry.keys() - {"name", what}:
            raise ConfigError(f"kubeconfig {path}: {field}, number {number}: write a map of name and {what}")
        if name in found:
            raise ConfigError(f"kubeconfig {path}: {field} has the name {name!r} twice")
        found[name] = value
    return found


def _list(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(f"{what} is not a list")
    return value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


# --- checks ----------------------------------------------------------------------------------------------------


def _read_cluster(entry: _Entry) -> Cluster:
    cluster: Cluster = entry.read(Cluster)
    has_authority = cluster.certificate_authority or cluster.certificate_authority_data
    problem = ""
    if not cluster.server:
        problem = "server is missing"
    elif cluster.certificate_authority and cluster.certificate_authority_data:
        problem = "certificate-authority and certificate-authority-data exclude each other"
    elif cluster.insecure_skip_tls_verify and has_authority:
        problem = "insecure-skip-tls-verify and a certificate authority exclude each other"
    if problem:
        raise ConfigError(f"{entry.what} of kubeconfig {entry.path}: {problem}")
    _check_base64(entry, "certificate-authority-data", cluster.certificate_authority_data)
    cluster.certificate_authority = entry.resolved(cluster.certificate_authority)
    return cluster


def _read_user(entry: _Entry) -> User:
    user: User = entry.read(User)
    certificate = bool(user.client_certificate or user.client_certificate_data)
    key = bool(user.client_key or user.client_key_data)
    problem = ""
    if user.auth_provider is not None:
        problem = (
            "auth-provider is not supported (kubectl has dropped all but oidc):"
            " use exec with a credential plugin, such as kubelogin"
        )
    elif user.client_certificate and user.client_certificate_data:
        problem = "client-certificate and client-certificate-data exclude each other"
    elif user.client_key and user.client_key_data:
        problem = "client-key and client-key-data exclude each other"
    elif certificate != key:
        problem = "a client certificate and its key are given together or not at all"
    elif user.password and not user.username:
        problem = "password needs username"
    elif (user.token or user.token_file) and user.username:
        problem = "a token and username or password exclude each other"
    elif (user.impersonate_uid or user.impersonate_groups or user.impersonate_extra) and not user.impersonate:
        problem = "as-uid, as-groups and as-user-extra need as"
    elif user.exec is not None:
        problem = _exec_problem(user.exec)
    if problem:
        raise ConfigError(f"{entry.what} of kubeconfig {entry.path}: {problem}")
    _check_base64(entry, "client-certificate-data", user.client_certificate_data)
    _check_base64(entry, "client-key-data", user.client_key_data)
    user.client_certificate = entry.resolved(user.client_certificate)
    user.client_key = entry.resolved(user.client_key)
    user.token_file = entry.resolved(user.token_file)
    if user.exec is not None and os.sep in user.exec.command:  # else it is looked up in PATH
        user.exec.command = entry.resolved(user.exec.command)
    return user


def _exec_problem(exec_: Exec) -> str:
    if not exec_.command:
        return "exec.command is missing"
    if exec_.api_version not in EXEC_API_VERSIONS:
        return f"exec.apiVersion is {exec_.api_version!r}: write {' or '.join(EXEC_API_VERSIONS)}"
    if not exec_.interactive_mode and exec_.api_version.endswith("/v1beta1"):
        exec_.interactive_mode = "IfAvailable"  # kubectl's default for this version; v1 has none
    if exec_.interactive_mode not in INTERACTIVE_MODES:
        return f"exec.interactiveMode is {exec_.interactive_mode!r}: write {', '.join(INTERACTIVE_MODES)}"
    if not all(variable.name for variable in exec_.env):
        return "exec.env has a variable without a name"
    return ""


def _check_base64(entry: _Entry, field: str, text: str) -> None:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ConfigError(f"{entry.what} of kubeconfig {entry.path}: {field} is not base64: {error}") from error


def _exists(path: str) -> bool:
    """Return whether the path exists; True if `stat` is not permitted, so that reading it reports the error."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return True


def _expanded(path: str) -> str:
    """Return the path with its `~` resolved; unchanged for a user without a home, as in a container without HOME."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        return path
