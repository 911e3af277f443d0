"""The index: takes events about AppModels and EndpointSlices, returns changed rows and announcements.

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
