"""Faults of the store and of the way to it."""
