"""The answers that a test sets for models, and their rows in an area. Pure, except for the time of metadata."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from shmroute.errors import ConfigError
from shmroute.rows import (
    App,
    EndpointRow,
    EndpointsRow,
    EndpointsState,
    Kind,
    MetadataRow,
    MetadataState,
    RouteRow,
    RowKey,
    encode,
)

DEFAULT_NAMESPACE: Final = "default"

MetadataStateWord: TypeAlias = Literal["loaded", "pending", "missing", "outdated", "too-large", "wrong-type"]


class Pod(msgspec.Struct, frozen=True):
    """One pod of an app, for tests that need more than its address."""

    address: str
    """``host:port``, such as ``10.0.0.1:80`` or ``[fd00::1]:80``."""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zone: str = ""
    hints: tuple[str, ...] = ()
    """Zones whose callers should prefer this pod; empty: all zones."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `resolve` for one model."""

    app: str
    version: str = "v1"
    """The model's version."""
    app_version: str = "v1"
    namespace: str = DEFAULT_NAMESPACE
    endpoints: tuple[str | Pod, ...] | None = None
    """Addresses as ``host:port``, or a `Pod` each. None: not known. An empty tuple: known to be empty."""
    ambiguous_ports: tuple[str, ...] = ()
    """Names of several ports of which none is chosen, so that `pick` raises. Replaces `endpoints`."""
    metadata: Any = None
    """Value of the metadata: bytes are used unchanged, anything else is encoded as JSON. None: there is no value."""
    metadata_state: MetadataStateWord | None = None
    """Value of `Route.metadata_state`. Default: "loaded" with a value, and "off" (no metadata at all) without."""
    metadata_version: str | None = None
    """Model version that the value was read for, if it is not `version`: then only `last_metadata` gives the value."""


Answers: TypeAlias = Mapping[str, "str | Answer"]
"""Model name -> the app's name, or an `Answer`."""


def checked_answer(model: object, given: object) -> Answer:
    """Return the answer that a test has given for a model, as an app's name or as an `Answer`.

    Raises:
        ConfigError: the model's name or the answer cannot be used.
    """
    if not _is_text(model):
        raise ConfigError(f"{model!r} is not a model's name: write a string that is not empty")
    answer = Answer(app=given) if isinstance(given, str) else given
    if not isinstance(answer, Answer):
        raise ConfigError(f"model {model!r}: give an app's name or an Answer, not {type(given).__name__}")
    if isinstance(answer.endpoints, str | Pod):
        raise ConfigError(f"model {model!r}: endpoints={answer.endpoints!r}: write a tuple, also for a single address")
    for field in ("app", "version", "app_version", "namespace"):
        if not _is_text(getattr(answer, field)):
            raise ConfigError(f"model {model!r}: {field}={getattr(answer, field)!r}: write a string that is not empty")
    if answer.metadata_version is not None and not _is_text(answer.metadata_version):
        raise ConfigError(f"model {model!r}: metadata_version={answer.metadata_version!r}: write a string, or None")
    if isinstance(answer.ambiguous_ports, str) or not all(map(_is_text, answer.ambiguous_ports)):
        raise ConfigError(f"model {model!r}: ambiguous_ports={answer.ambiguous_ports!r}: write a tuple of ports' names")
    return answer


def _is_text(value: object) -> bool:
    """Whether a name can be published: a string that is not empty and has neither NUL nor lone surrogates."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def rows_of(answers: Mapping[str, Answer]) -> dict[RowKey, bytes]:
    """Return the rows of an area in which each model has an AppModel of its own."""
    rows: dict[RowKey, bytes] = {}
    apps: dict[str, list[App]] = {}
    for model, answer in answers.items():
        route = RouteRow(model, answer.version, answer.app, answer.app_version, answer.namespace, model)
        rows[Kind.MODEL, model] = encode(route)
        service = f"{answer.namespace}/{model}"
        apps.setdefault(answer.app, []).append(
            App(answer.app, answer.app_version, answer.namespace, model, service, ((model, answer.version),))
        )
        if answer.ambiguous_ports:
            ports = ", ".join(answer.ambiguous_ports)
            rows[Kind.ENDPOINTS, service] = encode(
                EndpointsRow(service, EndpointsState.AMBIGUOUS_PORT, detail=f"ports {ports}")
            )
        elif answer.endpoints is None:
            rows[Kind.ENDPOINTS, service] = encode(EndpointsRow(service, EndpointsState.UNKNOWN))
        else:
            endpoints = tuple(
                sorted((_endpoint(model, pod) for pod in answer.endpoints), key=lambda row: (row.host, row.port))
            )
            rows[Kind.ENDPOINTS, service] = encode(EndpointsRow(service, EndpointsState.KNOWN, endpoints))
        if answer.metadata is not None or answer.metadata_state is not None:
            rows[Kind.METADATA, service] = encode(_metadata(model, answer))
    for app, entries in apps.items():
        rows[Kind.APP, app] = encode(tuple(entries))
    return rows


def _metadata(model: str, answer: Answer) -> MetadataRow:
    states = {state.word: state for state in MetadataState}
    word = answer.metadata_state or "loaded"
    if word not in states:
        raise ConfigError(f"model {model!r}: metadata_state={word!r}: write one of {', '.join(states)}")
    value = answer.metadata
    if value is not None and not isinstance(value, bytes):
        try:
            value = msgspec.json.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ConfigError(f"model {model!r}: its metadata cannot be written as JSON: {error}") from error
    version = None if value is None else answer.metadata_version or answer.version
    return MetadataRow(answer.app, version, answer.version, states[word], time.time(), value)


def _endpoint(model: str, given: str | Pod) -> EndpointRow:
    pod = Pod(given) if isinstance(given, str) else given
    if not isinstance(pod, Pod):
        raise ConfigError(f"model {model!r}: {given!r} is not an endpoint: write host:port, or a Pod")
    if (
        not isinstance(pod.zone, str)
        or isinstance(pod.hints, str)
        or not all(isinstance(hint, str) for hint in pod.hints)
    ):
        raise ConfigError(
            f"model {model!r}: endpoint {pod.address!r}: write the zone as a string and the hints as a tuple of zones"
        )
    host, _, port = pod.address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not port.isdecimal() or not 0 < int(port) < 1 << 16 or (":" in bare) != (host != bare):
        raise ConfigError(
            f"model {model!r}: endpoint {pod.address!r}: write host:port, such as 10.0.0.1:80 or [fd00::1]:80"
        )
    return EndpointRow(bare, int(port), pod.ready, pod.serving, pod.terminating, pod.zone, hints=tuple(pod.hints))
