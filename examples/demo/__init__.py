"""`make demo`: from a model's name to a pod on one machine, with real processes and without a cluster.

    __main__  the options
    play      the events in their order, and what each of them proves
    scene     the folder of manifests, and stand-ins for pods
    server    gunicorn behind `shmroute run`, and requests to its workers
    app       the application in those workers
    view      the output: plain lines, or a live table on a terminal

Run from the repository: `python -m examples.demo --help`.
"""
