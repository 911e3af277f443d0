"""Models' metadata: read from Redis or a folder, once for each version, and asked for again while it is not there.

Runs beside the watcher's owner thread, which is the only one to say what is wanted and to publish what was read:

    owner:   loader.want(...)  -> the PENDING row to publish with the route
    reader:  MGET ...          -> MetadataRead, through a sink
    owner:   loader.settled(read, ...) -> the row to publish, unless something else is wanted by now

Knows nothing of Kubernetes and of shared memory. Never imported by a worker.
"""
