"""Faults that callers, or one user's data, bring about: they must not show in another's answer."""
