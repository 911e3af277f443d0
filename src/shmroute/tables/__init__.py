"""The index: takes events about objects of all watched kinds, returns changed rows and announcements for handlers.

    tables       `Index`: one `Table` for each kind
    table        the interface of a table; `handler` that of users' handlers
    appmodels    the AppModels; `models` makes rows of them, `conflicts` chooses between claims
    endpoints    the EndpointSlices; `merge_slices` merges those of one Service
    declared     the table of a declared kind; `indexes` has its indexes
    problems     the objects that are set aside; `shares` sets aside what exceeds a namespace's share

A pure object: no I/O, no clock, no threads, no logging; the same events give the same rows. It never knows where
events come from or where rows go. Only the watcher's owner thread uses it.
"""

from shmroute.tables.handler import Announcement, Handler, TableHandler, TableItem
from shmroute.tables.merge_slices import EndpointRules
from shmroute.tables.shares import Crowded, Room
from shmroute.tables.table import WantedMetadata
from shmroute.tables.tables import Index

__all__ = [
    "Announcement",
    "Crowded",
    "EndpointRules",
    "Handler",
    "Index",
    "Room",
    "TableHandler",
    "TableItem",
    "WantedMetadata",
]
