"""The writing side of shared memory: the lock, the writable control block, segments, new bases, the publisher.

Loaded by watchers only; a worker never imports it.
"""
