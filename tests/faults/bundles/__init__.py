"""Faults of bundles: what is corrupt, cut, gone or swapped while it is read, each met under steady load."""
