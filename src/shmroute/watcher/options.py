"""What a watcher can be asked for: the command line's options by their names, and their defaults."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from shmroute.errors import ConfigError
from shmroute.metadata.loader import MetadataLimits
from shmroute.metadata.template import DEFAULT_TEMPLATE
from shmroute.resources.registry import APPMODELS, ENDPOINTSLICES
from shmroute.sources.kubernetes.timing import PROBE_SECONDS, PROBE_SECONDS_MAX, PROBE_SECONDS_MIN
from shmroute.tables.merge_slices import IpFamily
from shmroute.watcher.room import SHARE_PERCENT, check_share
from shmroute.worker import environment

__all__ = [
    "DEFAULT_SELECTOR",
    "DEFAULT_SLICE_SELECTOR",
    "PROBE_SECONDS",
    "PROBE_SECONDS_MAX",
    "PROBE_SECONDS_MIN",
    "SHARE_PERCENT",
    "WatchOptions",
    "check_namespaces",
    "check_probe_seconds",
    "check_share",
]

NAMESPACES_MAX: Final = 50
"""Most namespaces that are watched one by one: each takes two watches. Beyond that `-A` is cheaper for all."""

NAMESPACE_MAX_CHARACTERS: Final = 63

_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
"""RFC 1123's label, which Kubernetes demands of a namespace's name."""

DEFAULT_SELECTOR: Final = APPMODELS.selector
DEFAULT_SLICE_SELECTOR: Final = ENDPOINTSLICES.selector


class WatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to watch and how; the command line's options by their names."""

    area: str = msgspec.field(default_factory=environment.area)
    """By default `SHMROUTE_AREA`, as in workers."""
    namespaces: tuple[str, ...] = ()
    """None given: the namespace of the kubeconfig's context or of the pod."""
    all_namespaces: bool = False
    selector: str | None = None
    kubeconfig: str | None = None
    context: str | None = None
    manifests: str | None = None
    resync_seconds: float = 300.0
    probe_seconds: float = PROBE_SECONDS
    """Longest time between two looks at whether the API server and the watch are alive; 0 for none."""
    endpoints: bool = True
    slice_selector: str = DEFAULT_SLICE_SELECTOR
    port: str = ""
    ip_family: IpFamily = "ipv4"
    """The family by which a pod with addresses of both is reached; "both": each of its addresses counts."""
    special_addresses: bool = False
    """Take loopback, link-local and multicast addresses, and host names, from the API server too."""
    tables: str | None = None
    """File that declares tables."""
    table: tuple[str, ...] = ()
    """Simple tables, `NAME=RESOURCE` each."""
    redis: str | None = None
    """URL of the Redis server with the models' metadata."""
    metadata: str | None = None
    """Folder with the models' metadata instead."""
    metadata_key: str = DEFAULT_TEMPLATE
    metadata_limit: int = MetadataLimits().value_bytes
    share: float = SHARE_PERCENT
    """Percentage of what the area may hold that the objects of one namespace may take, where several are watched in a
    cluster; 100 for no limit."""
    group: str | None = None
    checkpoint: str | None = None
    handlers: tuple[str, ...] = ()
    """Handlers by name, `package.module:name`."""
    refuse_other: bool = False
    """Rather fail than stand by for a watcher of another source."""


def check_namespaces(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ConfigError: a name that no namespace can have, which an API server would answer by an empty list; or too many.
    """
    checked = tuple(dict.fromkeys(names))
    for name in checked:
        if len(name) > NAMESPACE_MAX_CHARACTERS or not _NAMESPACE.fullmatch(name):
            raise ConfigError(
                f"-n {name!r}: not a namespace's name: at most {NAMESPACE_MAX_CHARACTERS} lower-case letters, digits "
                "and -, several separated by commas; -A stands for all namespaces"
            )
    if len(checked) > NAMESPACES_MAX:
        raise ConfigError(f"{len(checked)} namespaces: name at most {NAMESPACES_MAX}, or watch all by -A")
    return checked


def check_probe_seconds(seconds: float) -> float:
    """The probe period. Raises `ConfigError` outside of its limits; 0 is for none."""
    if seconds and not PROBE_SECONDS_MIN <= seconds <= PROBE_SECONDS_MAX:
        limits = f"from {PROBE_SECONDS_MIN:g} to {PROBE_SECONDS_MAX:g}"
        raise ConfigError(f"--probe-seconds {seconds:g}: give a number {limits}, or off")
    return seconds
