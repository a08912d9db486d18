"""What a run of the load test means: figures, budgets kept or missed, pages and plots.

In comes what judges or shows what the generator recorded.
"""
