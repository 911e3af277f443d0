"""`shmroute demo`: the main job on one machine, with real processes, without a cluster.

    play    the sequence of events, and what each of them proves
    scene   the folder of manifests, and the pods' stand-ins
    server  gunicorn behind `shmroute run`, and asking its workers
    app     the application in those workers
    view    what is said of it: plain lines, and a live view on a terminal

Ships with the package, so that the demo runs from a wheel too. Not imported by anything else.
"""
