"""What the benchmarks share: bundles to measure, sides that take turns, a caller, a command that prints figures.

In comes what two benchmarks need; it may import model and service.
"""
