"""The load of thousands of watchers on one API server: a simulation by discrete events.

The watchers' decisions are shmroute's own (`Recovery`, `Schedule`, `audit_wait`, `Timing`), on a clock that the
simulation turns. The server is a model: what it answers in each phase of its life was recorded of a real one.
"""
