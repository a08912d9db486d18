"""What the service tells of itself: metrics over all workers, logs and traces.

In comes what counts, writes or renders; it imports nothing else of the service.
"""
