"""A table of items → a bundle's catalogue, put in the place of the one before while services answer with it.

In comes what reads such tables or compares catalogues; the file itself is `model.features.catalog`'s.
"""
