"""The journal: what was shown and what came back, written beside the requests' path, a file a worker.

In comes what writes, rotates, bounds and reads those files; the records' shapes are model/servicelog's.
"""
