"""shmroute compared with its alternatives: `make bench` (ten minutes), `make bench-quick` (one).

`lookups`, `publishing` and `processes` measure; `peers` has one module for each competitor, all with the same
signature; `timing` interleaves and takes medians; `report` writes JSON, SVG and the table in README. Data come from
`tests.generate`.
"""
