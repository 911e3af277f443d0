"""The writing side of shared memory.

    publisher        `Publisher`: publishes changed rows, one generation at a time
    segment_writer   writes batches into a segment; `segment_memory` is its file, `packing` packs the rows of a base
    rebuild          builds a new base in slices
    control          the writable control block; `lock` is the area's lock

Loaded by watchers only; a worker never imports it.
"""
