"""One run: a recipe and a prepared data set in, weights out.

In comes what moves weights or decides how; networks live beside, export after.
"""
