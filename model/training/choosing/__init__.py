"""Which recipe a run goes by: named, made for the data set, suited to the log, or found by a search.

In comes what decides between recipes; what a recipe is stands in model/training/recipe.py. No torch until it trains.
"""
