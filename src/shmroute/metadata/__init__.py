"""Models' metadata: read from Redis or a folder once per version, and read again while it is missing.

A value goes one way, and enters each part once:

    store       reads values by key, within limits of time and size
    loader      runs the reading thread; asks the store for the keys that the scheduler says are due
    scheduler   decides when a key is read and what an answer means
    feed        (shmroute.watcher.metadata_feed, owner thread) decides which version of which model is wanted, drops
                answers to outdated requests by their ticket, and makes the row
    publication (shmroute.watcher.pending_rows) publishes the row

`store` is the interface of `folder_store` and `redis_store`, which uses `redis_url`, `redis_servers` and
`redis_connection`. `retry_delays` has the delays, `template` makes keys, `own_version` finds the version in a value,
`published` keeps the last value, `write` writes values for `shmroute apply`.

This package knows neither Kubernetes nor shared memory. A worker never imports it.
"""
