"""The API server as a source: list, watch, probe and audit of one resource.

    source        `KubernetesSource`: the threads of one kind, and its state
    reflector     lists, then watches, and resumes after a failure; `listing` makes complete lists, `recovery` the waits
    probe         checks that the watch is alive and that the server has not gone back in time; `schedule` says when
    audit         compares the sent objects, kept in `sync_state`, with a fresh list
    api           the requests; `wire` decodes their answers, `explain` explains refusals, `timing` has all durations
    several       several namespaces as one source
    table_source  the source of a declared table; `deletions` recognises that its definition is being deleted

Each module but `source`, `several` and `table_source` knows only its own step.
"""
