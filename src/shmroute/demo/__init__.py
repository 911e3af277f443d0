"""`shmroute demo`: the main job on one machine, with real processes, without a cluster.

`scene` writes the manifests and runs the pods' stand-ins, `app` is the server's application, `play` the sequence of
events and what is said of it. Ships with the package, so that the demo runs from a wheel too. Not imported by
anything else.
"""
