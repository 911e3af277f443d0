"""Keep a watcher running beside a server, and end everything with the server.

    run              the parent of a server's command (`shmroute run`)
    keep             the child of a server with hooks (`shmroute keep`, started by `hooks` for `shmroute.contrib`)
    restarter        restarts a watcher that has died or frozen; `heartbeat_check` detects a frozen one
    lifeline         a pipe that the kernel closes with the last process that needs the watcher
    cleanup          removes the area's shared memory
    linux            prctl, waitid and /proc; `signals` takes signals one at a time

This package knows processes and the control block, never the watched objects. `run` and `keep` have one thread: a loop
that takes the next signal or waits at most a second.
"""
