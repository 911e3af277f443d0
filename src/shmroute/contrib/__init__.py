"""One module for each third-party library; each imports its library only when the module itself is imported.

    gunicorn   hooks for gunicorn.conf.py that run a watcher beside the server
    granian    the same hooks for a Granian server that is started from Python
    asgi       a lifespan and a middleware that wait for the first snapshot; they never start a watcher

    httpx      transports that call a model by its name and retry at another pod when one fails
    aiohttp    a middleware for its client that does the same
    requests   an adapter that does the same
    prometheus metrics of these calls

Every other server runs below `shmroute run -- CMD`. Nothing here changes how a server behaves; docs/servers.md says
what each server does with its connections when a worker ends. gunicorn and asgi share `waiting`.
"""
