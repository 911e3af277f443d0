"""Keeping a watcher alive beside a server, and taking everything down with it.

`keeper` restarts a dead or frozen watcher, `lifeline` tells when the last process it serves has gone, `run` is the
parent of a server's command. Knows processes and the control block; never what is watched.
"""
