"""Holds experiments to what they promise: users whose true click probabilities are known, and own counts by variant.

In comes what `python -m tests.judge --run experiment` and its short form are made of.
"""
