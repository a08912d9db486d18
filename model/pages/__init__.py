"""What every page of the project shares: frame, style, tables and the look of plots.

In comes what two pages need; it knows neither what they show nor matplotlib, but for drawing.py.
"""
