"""A folder of manifests as a source: what a laptop, CI, a demo or a mounted ConfigMap has instead of a cluster.

    listing   which files there are, and whether they are still the same
    content   one file's bytes to objects
    objects   all files' objects to events
    source    the thread that watches, reads and reports

Only `source` does more than it is told: the others keep no thread and no clock.
"""

from shmroute.sources.folder.source import FolderSource

__all__ = ["FolderSource"]
