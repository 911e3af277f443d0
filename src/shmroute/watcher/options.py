"""What a watcher can be asked for: the command line's options by their names, and their defaults."""

from __future__ import annotations

from typing import Final

import msgspec

from shmroute.metadata.loader import MetadataLimits
from shmroute.metadata.template import DEFAULT_TEMPLATE
from shmroute.resources.registry import APPMODELS, ENDPOINTSLICES
from shmroute.tables.merge_slices import IpFamily
from shmroute.worker import environment

__all__ = ["DEFAULT_SELECTOR", "DEFAULT_SLICE_SELECTOR", "WatchOptions"]

DEFAULT_SELECTOR: Final = APPMODELS.selector
DEFAULT_SLICE_SELECTOR: Final = ENDPOINTSLICES.selector


class WatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to watch and how; the command line's options by their names."""

    area: str = msgspec.field(default_factory=environment.area)
    """By default `SHMROUTE_AREA`, as in workers."""
    namespace: str | None = None
    """None: the namespace of the kubeconfig's context or of the pod."""
    all_namespaces: bool = False
    selector: str | None = None
    kubeconfig: str | None = None
    context: str | None = None
    manifests: str | None = None
    resync_seconds: float = 300.0
    endpoints: bool = True
    slice_selector: str = DEFAULT_SLICE_SELECTOR
    port: str = ""
    ip_family: IpFamily = "ipv4"
    """The family by which a pod with addresses of both is reached; "both": each of its addresses counts."""
    special_addresses: bool = False
    """Take loopback, link-local and multicast addresses, and host names, from the API server too."""
    redis: str | None = None
    """URL of the Redis server with the models' metadata."""
    metadata: str | None = None
    """Folder with the models' metadata instead."""
    metadata_key: str = DEFAULT_TEMPLATE
    metadata_limit: int = MetadataLimits().value_bytes
    group: str | None = None
    checkpoint: str | None = None
    handlers: tuple[str, ...] = ()
    """Handlers by name, `package.module:name`."""
    refuse_other: bool = False
    """Rather fail than stand by for a watcher of another source."""
