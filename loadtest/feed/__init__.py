"""A shop's feed in the simulator's world: users who browse and click, those who order a page, and the evening after.

In comes what `python -m loadtest.loop` is made of. The service is known by HTTP and by its commands alone.
"""
