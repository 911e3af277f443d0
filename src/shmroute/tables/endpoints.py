"""Rows about addresses: ENDPOINTS, one for each valid AppModel, and INVALID ones of the kinds "Port" and "Endpoints".

Used only by `shmroute.tables.tables`. It knows the Service of each AppModel, never its models: the cost of an endpoint
does not depend on the number of its app's models.

All slices of the watched scope are kept, even of Services that no AppModel names: an AppModel that names one later must
not wait for the next list. Slices are kept packed, at some 70 bytes an endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final

import msgspec

from shmroute.resources.appmodel import AppModel
from shmroute.resources.endpointslice import EndpointSlice, address_problem
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import ENDPOINTSLICES, Item
from shmroute.rows import EndpointsRow, EndpointsState, InvalidRow, Kind, RowKey, encode
from shmroute.tables.conflicts import claim_of
from shmroute.tables.handler import Announcement
from shmroute.tables.merge_slices import EndpointRules, merge, pack
from shmroute.tables.problems import Problems
from shmroute.tables.shares import Share, Shares
from shmroute.tables.table import RowChanges

MAX_ROW_BYTES: Final = 16 * 1024 * 1024
"""Largest row of one AppModel's addresses, in bytes: some 200,000 addresses. A row may have 64 MiB."""

_TOO_MANY: Final = f"at most {MAX_ROW_BYTES} bytes are taken, so its endpoints are not known"

_ROW_BYTES: Final = 64
"""Bytes of a row in addition to key and value: the record's head and slots."""


class Endpoints:
    """A `Table` of EndpointSlices: the slices of all Services, and the rows made of them.

    A Service whose last slice is deleted stays *known empty*, because a slice may be deleted before its replacement
    is created. It becomes *not known* with the next complete list without a slice of it, or when no AppModel names it
    any more.

    Args:
        appmodels: the served AppModels; the caller updates this mapping and reports each change by `replace`.
        problems: gets a row for each slice with refused addresses, and for each AppModel without a port or room.
        rules: the rules by which endpoints are made.
        share: the limit for the addresses of one namespace's AppModels; None: no limit.
    """

    def __init__(
        self,
        appmodels: Mapping[ObjectKey, AppModel],
        problems: Problems,
        rules: EndpointRules,
        share: Share | None = None,
    ) -> None:
        self._appmodels = appmodels
        self._problems = problems
        self._rules = rules
        self.shares = Shares(share)
        self._slices: dict[ObjectKey, dict[ObjectKey, bytes]] = {}
        self._service_of: dict[ObjectKey, ObjectKey] = {}
        self._emptied: dict[ObjectKey, None] = {}
        self._let_go_of: dict[ObjectKey, None] = {}
        # By Service, the AppModels that name it by annotation; an AppModel with the Service's name needs no entry.
        self._annotated: dict[ObjectKey, dict[ObjectKey, None]] = {}
        self._touched: dict[ObjectKey, None] = {}
        self._rows = RowChanges(int(Kind.ENDPOINTS))
        self._no_room: dict[ObjectKey, None] = {}

    # --- AppModels -----------------------------------------------------------------------------------------

    def replace(self, old: AppModel | None, new: AppModel | None) -> None:
        """Note that `new` has replaced `old` in the caller's mapping. `settle` ends an event."""
        if old is not None and new is not None and _asked(old) == _asked(new):
            return
        if old is not None:
            self._touched[old.key] = None
            self._let_go(old)
        if new is not None:
            self._touched[new.key] = None
            if new.service != new.key:
                self._annotated.setdefault(new.service, {})[new.key] = None

    def _let_go(self, appmodel: AppModel) -> None:
        service = appmodel.service
        annotated = self._annotated.get(service)
        if annotated is not None:
            annotated.pop(appmodel.key, None)
            if not annotated:
                del self._annotated[service]
        if service in self._emptied:
            self._let_go_of[service] = None

    def settle(self) -> None:
        """End an event: forget Services that no AppModel refers to.

        This waits for the end, because another AppModel of the same list may name a Service that one has dropped.
        """
        for service in self._let_go_of:
            if next(self._naming(service), None) is None:
                self._emptied.pop(service, None)
        self._let_go_of.clear()

    def _naming(self, service: ObjectKey) -> Iterator[ObjectKey]:
        """Yield the valid AppModels that name the Service."""
        namesake = self._appmodels.get(service)
        if namesake is not None and namesake.service == service:
            yield service
        yield from self._annotated.get(service, ())

    # --- slices --------------------------------------------------------------------------------------------

    def replace_all(self, items: Iterable[Item]) -> list[Announcement]:
        """Replace all slices by `items`."""
        latest = {item.key: item for item in items}
        for item in latest.values():
            self.put(item)
        for key in [key for key in self._service_of if key not in latest]:
            self.remove(key)
        for service in self._emptied:
            self._touch(service)
        self._emptied.clear()
        return []

    def put(self, item: Item) -> list[Announcement]:
        """Add or change a slice."""
        assert isinstance(item, EndpointSlice)  # noqa: S101 - the kind's parser returns nothing else
        if not self._rules.special_addresses:
            item = self._without_special(item)
        service = item.service
        if self._service_of.get(item.key, service) != service:
            self.remove(item.key)
        self._service_of[item.key] = service
        slices = self._slices.setdefault(service, {})
        packed = pack(item)
        if slices.get(item.key) != packed:
            slices[item.key] = packed
            self._emptied.pop(service, None)
            self._touch(service)
        return []

    def remove(self, key: ObjectKey) -> list[Announcement]:
        """Remove a slice."""
        self._problems.set(key.namespace, _slice_row_key(key), None)
        service = self._service_of.pop(key, None)
        if service is None:
            return []
        slices = self._slices[service]
        del slices[key]
        if not slices:
            del self._slices[service]
            if next(self._naming(service), None) is not None:
                self._emptied[service] = None
        self._touch(service)
        return []

    def resync(self) -> list[Announcement]:
        """Return nothing: no handler is called for slices."""
        return []

    def _without_special(self, item: EndpointSlice) -> EndpointSlice:
        """Return the slice without addresses that no pod can have; these are listed as a problem of the slice."""
        problems = {each.address: problem for each in item.endpoints if (problem := address_problem(each.address))}
        if not problems:
            self._problems.set(item.key.namespace, _slice_row_key(item.key), None)
            return item
        address, problem = next(iter(problems.items()))
        more = f" (and {len(problems) - 1} more addresses)" if len(problems) > 1 else ""
        reason = f"address {address!r} is {problem}{more}: left out; --special-addresses takes such addresses"
        row = InvalidRow(ENDPOINTSLICES.kind, item.key.namespace, item.key.name, reason, last_good=False)
        self._problems.set(item.key.namespace, _slice_row_key(item.key), encode(row))
        left = tuple(each for each in item.endpoints if each.address not in problems)
        return msgspec.structs.replace(item, endpoints=left)

    def _touch(self, service: ObjectKey) -> None:
        for key in self._naming(service):
            self._touched[key] = None

    # --- rows ----------------------------------------------------------------------------------------------

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """Return the rows that have changed since the last call; None for a removed row."""
        self.make_rows()
        return self._rows.take_changes()

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """Return all current rows."""
        self.make_rows()
        return self._rows.rows()

    def make_rows(self) -> None:
        """Make the rows of all touched AppModels, and their problems."""
        touched, self._touched = self._touched, {}
        made: dict[ObjectKey, tuple[bytes, str]] = {}
        for key in touched:
            appmodel = self._appmodels.get(key)
            if appmodel is None:
                self.shares.remove(key.namespace, key)
                self._no_room.pop(key, None)
                self._set(key, None, "")
            else:
                row, problem = made[key] = self._made(appmodel)
                if self.shares.limit is not None:
                    size = len(row) + _ROW_BYTES + 2 * len(str(key))
                    self.shares.put(key.namespace, key, claim_of(appmodel).rank, Share(1, 0, size))
        moved = dict(self.shares.settle())
        for key in dict.fromkeys(chain(made, moved)):
            row, problem = made.get(key) or self._made(self._appmodels[key])
            if moved.get(key, key not in self._no_room):
                self._no_room.pop(key, None)
            else:
                self._no_room[key] = None
                problem = self.shares.reason(key.namespace, "addresses")
                row = encode(EndpointsRow(str(self._appmodels[key].service), EndpointsState.UNKNOWN, (), "no room"))
            self._set(key, row, problem)

    def _set(self, key: ObjectKey, row: bytes | None, problem: str) -> None:
        self._rows.set(str(key), row)
        about = InvalidRow("Endpoints" if key in self._no_room else "Port", key.namespace, key.name, problem, False)
        self._problems.set(key.namespace, f"Port {key}", encode(about) if problem else None)

    def _made(self, appmodel: AppModel) -> tuple[bytes, str]:
        service = appmodel.service
        slices = self._slices.get(service)
        problem = ""
        if slices is not None:
            row, problem = merge(str(service), slices.values(), appmodel.port, self._rules)
        elif service in self._emptied:
            row = EndpointsRow(str(service), EndpointsState.KNOWN)
        else:
            row = EndpointsRow(str(service), EndpointsState.UNKNOWN)
        encoded = encode(row)
        if len(encoded) > MAX_ROW_BYTES:
            problem = f"Service {service} has {len(row.endpoints)} addresses in {len(encoded)} bytes: {_TOO_MANY}"
            encoded = encode(EndpointsRow(str(service), EndpointsState.UNKNOWN, (), "too many addresses"))
        return encoded, problem


def _asked(appmodel: AppModel) -> tuple[object, ...]:
    """Return the fields that decide an AppModel's row, and its rank in its namespace."""
    return appmodel.service, appmodel.port, appmodel.created, appmodel.first_seen


def _slice_row_key(key: ObjectKey) -> str:
    return f"{ENDPOINTSLICES.kind} {key}"
