"""Keeping a watcher alive beside a server, and taking everything down with it.

    run        the parent of a server's command (`shmroute run`)
    keep       the child of a server that has hooks (`shmroute keep`, started by `beside` for `shmroute.contrib`)
    keeper     restarts a dead or frozen watcher; `pulse` tells a frozen one
    lifeline   tells when the last process a watcher serves has gone
    leaving    takes the area's memory away
    processes  what Linux knows of child processes; `signals` takes signals one at a time

Knows processes and the control block; never what is watched. `run` and `keep` have one thread: a loop that takes the
next signal, or lets a second pass.
"""
