"""Load beyond what a service can take: the traffic of a window, and what became of it.

In comes what several benchmarks of overload need; it knows HTTP alone, as the generator does.
"""
