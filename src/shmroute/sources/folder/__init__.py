"""A folder of manifests as a source, in place of a cluster: for a laptop, CI, a demo, or a mounted ConfigMap.

    content   the objects in one file
    objects   the objects in all files, and the events that follow from a change
    reader    checks the files, and reads those that have changed
    source    the thread that checks the folder periodically, and reports
    selector  label selectors

`content`, `objects` and `selector` are pure; only `source` has a thread and a clock.
"""
