"""The steps of a network's parts: tables by rows, a wide part by FTRL, the rest dense.

In comes what moves weights; a step's time must not grow with the tables. Knows torch, the networks' contract
and the settings of a recipe.
"""
