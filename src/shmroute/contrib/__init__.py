"""shmroute in the servers its users run. One module a server; each imports what it needs only when it is used.

    gunicorn   hooks for gunicorn.conf.py: a watcher beside the server
    granian    the same for a Granian object, and Granian with a restart that fails no request
    asgi       lifespan and middleware that wait for the first snapshot; never start a watcher
    uvicorn    its HTTP protocol, with a shutdown that fails no request; `uvicorn_worker` is the same for gunicorn
    hypercorn  its command, with such a shutdown

Every other server: `shmroute run -- CMD`. `waiting` and `lingering` are shared by them.
"""
