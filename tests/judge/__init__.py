"""Holds the loop to what it promises: own counts of what was shown, clicked and joined beside those of the log.

In comes what `python -m tests.judge` and its short form are made of; the service is known by HTTP and by its commands.
Experiments are experiment/.
"""
