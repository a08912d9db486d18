"""Raw value → key → row → arrays: the same functions for training and serving, in numpy alone.

kinds.py holds a class per feature kind, encode.py the network's input. Nothing of the project comes in.
"""
