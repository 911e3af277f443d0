"""The options of a watcher with the names and defaults of the command line, and their checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from shmroute.errors import ConfigError
from shmroute.metadata.loader import MetadataLimits
from shmroute.metadata.template import DEFAULT_TEMPLATE
from shmroute.resources.appmodel_rules import DNS_LABEL
from shmroute.resources.registry import ENDPOINTSLICES
from shmroute.sources.kubernetes.timing import PROBE_SECONDS, PROBE_SECONDS_MAX, PROBE_SECONDS_MIN
from shmroute.tables.merge_slices import IpFamily
from shmroute.watcher.room import SHARE_PERCENT
from shmroute.worker import environment

NAMESPACES_MAX: Final = 50
"""Largest number of namespaces watched one by one, with two watches each. For more, `-A` is cheaper for all sides."""

DEFAULT_SLICE_SELECTOR: Final = ENDPOINTSLICES.selector


class WatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `shmroute watch`, by their names."""

    area: str = msgspec.field(default_factory=environment.area)
    """Name of the area; by default `SHMROUTE_AREA`, as in workers."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; empty: the namespace of the kubeconfig's context or of the pod."""
    all_namespaces: bool = False
    selector: str | None = None
    kubeconfig: str | None = None
    context: str | None = None
    manifests: str | None = None
    resync_seconds: float = 300.0
    probe_seconds: float = PROBE_SECONDS
    """Longest time between two probes of the API server and the watch, in seconds; 0: no probes."""
    endpoints: bool = True
    slice_selector: str = DEFAULT_SLICE_SELECTOR
    port: str = ""
    ip_family: IpFamily = "ipv4"
    """Address family to use for a pod that has both; "both": use all its addresses."""
    special_addresses: bool = False
    """Accept loopback, link-local and multicast addresses, and host names, from the API server too."""
    tables: str | None = None
    """Path of the file that declares tables."""
    table: tuple[str, ...] = ()
    """Tables without further settings, each `NAME=RESOURCE`."""
    redis: str | None = None
    """URL of the Redis server with the models' metadata."""
    metadata: str | None = None
    """Folder with the models' metadata, in place of Redis."""
    metadata_key: str = DEFAULT_TEMPLATE
    metadata_limit: int = MetadataLimits().value_bytes
    share: float = SHARE_PERCENT
    """Largest share of the area for the objects of one namespace, in percent, if several namespaces of a cluster are
    watched; 100: no limit."""
    group: str | None = None
    checkpoint: str | None = None
    handlers: tuple[str, ...] = ()
    """Names of handlers, each ``package.module:name``."""
    refuse_other: bool = False
    """Fail instead of standing by if the area's watcher follows another source."""


def check_namespaces(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names without duplicates.

    Raises:
        ConfigError: there are too many names, or no namespace can have such a name (an API server would return an empty
            list for it).
    """
    checked = tuple(dict.fromkeys(names))
    for name in checked:
        if not DNS_LABEL.fullmatch(name):
            raise ConfigError(
                f"-n {name!r}: not a namespace's name: at most 63 lower-case letters, digits "
                "and -, several separated by commas; -A stands for all namespaces"
            )
    if len(checked) > NAMESPACES_MAX:
        raise ConfigError(f"{len(checked)} namespaces: name at most {NAMESPACES_MAX}, or watch all by -A")
    return checked


def check_probe_seconds(seconds: float) -> float:
    """Return the probe period. Raises `ConfigError` outside of its limits; 0 switches probes off."""
    if seconds and not PROBE_SECONDS_MIN <= seconds <= PROBE_SECONDS_MAX:
        limits = f"from {PROBE_SECONDS_MIN:g} to {PROBE_SECONDS_MAX:g}"
        raise ConfigError(f"--probe-seconds {seconds:g}: give a number {limits}, or off")
    return seconds
