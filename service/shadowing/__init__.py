"""Shadows: models that score what others have shown, in a process of their own, from the journal.

In comes what reads the journal as it grows, scores, and writes what came of it beside; no request waits for it.
"""
