"""The watcher: one process per pod that follows the sources and publishes what they say.

Wires sources, index, metadata and publisher together. One owner thread applies events in order and publishes; it never
waits for a source, for Redis, for a handler or for a reader.
"""
