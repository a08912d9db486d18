"""An open loop of requests: planned before the clock starts, sent by plan, timed from the intended moment.

In comes what plans, sends or reads answers; it knows HTTP alone, neither model nor service.
"""
