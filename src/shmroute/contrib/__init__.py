"""One module for each third-party library; each imports its library only when the module itself is imported.

    gunicorn   hooks for gunicorn.conf.py that run a watcher beside the server
    granian    the same hooks for a Granian server that is started from Python
    asgi       a lifespan and a middleware that wait for the first snapshot; they never start a watcher

    httpx      transports that call a model by its name, past pods that fail
    aiohttp    a middleware for its client that does so
    requests   an adapter that does so
    prometheus metrics of these calls

Every other server runs below `shmroute run -- CMD`. Nothing here changes how a server behaves: what it does with its
connections when a worker ends is in docs/servers.md. `waiting` is shared by gunicorn and asgi.
"""
