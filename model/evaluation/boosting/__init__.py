"""Gradient boosting on counts: an opponent beside the floor that needs no network.

described.py makes impressions columns, trees.py is fitted to them, kept.py is what others ask for scores. In comes
what the trees see or how they are fitted; what networks do stays out.
"""
