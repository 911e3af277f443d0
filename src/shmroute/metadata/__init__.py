"""Models' metadata: read from Redis or a folder once per version, and read again while it is missing.

A value goes one way, and enters each part once:

    store       reads values by key, within bounds of time and size
    loader      runs the reading thread; asks the store for what the scheduler says is due
    scheduler   decides when a key is read and what an answer means
    feed        (shmroute.watcher.metadata_feed, owner thread) decides which version of which model is wanted, drops
                what is out of date by its ticket, and makes the row
    publication (shmroute.watcher.pending_rows) publishes the row

This package knows nothing of Kubernetes and of shared memory. A worker never imports it.
"""
