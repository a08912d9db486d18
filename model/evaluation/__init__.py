"""How well scores rank. Figures of arrays, of an exported model on a prepared data set, and their intervals.

In comes what measures; no torch, nothing that trains or draws.
"""
