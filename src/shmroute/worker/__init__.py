"""The worker's half: the reader, its look-up, and the values that it returns.

    default      `resolve`, `get` and `table` of this process, on one `Reader`
    reader       `Reader`: look-ups in one area
    lookup       the look-up of each request; the native twin does the same
    position     the generation that a reader answers from, and its moves to the next; `row_cache` holds decoded rows
    routes       `Route`; `endpoints` picks an address, `metadata` decodes a value, `binding` links routes to
                 their reader
    tables       `Table`: a declared table; `built_in` has models, apps and endpoints, `table_view` their common base,
                 `table_metadata` the metadata of a row
    snapshot     `Snapshot`: routes and tables of one generation
    changes      iterators over changes of routes; `table_changes` of tables

`similar_names` makes the text of `ModelNotFound`, `environment` reads variables, `forks` makes forks safe. This package
never imports the watcher's half.
"""
