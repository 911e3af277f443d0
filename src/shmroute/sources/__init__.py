"""Sources of objects: a Kubernetes cluster, or a folder of the same manifests.

A source knows how to list and watch, resume and back off. It never knows what a route is. `base` has the contract
between a source and its owner; `threads` supervises helper threads.
"""
