"""shmroute in the servers its users run. One module a server; each imports what it needs only when it is used.

    gunicorn   hooks for gunicorn.conf.py: a watcher beside the server
    granian    the same for a Granian object
    asgi       lifespan and middleware that wait for the first snapshot; never start a watcher

Every other server: `shmroute run -- CMD`. `waiting` is shared by them.
"""
