"""Where independent pieces of work run: in threads of this process, or by the workers of a cluster.

`place` is what computing code uses; `workers` is the only module that knows the scheduler's library.
"""
