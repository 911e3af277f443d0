"""Every fault at once, by a seeded schedule: `make chaos SECONDS=600 SEED=1`.

`stage` starts the real parts (test API server, Redis, watcher with keeper, stand-by, gunicorn workers under load),
`world` changes objects and values, `acts` are the faults, `verdict` compares what is served at the end with what there
is. The whole runs in a mount namespace with a small /dev/shm of its own where that is permitted, so that it can be
filled.
"""
