"""Faults under writes: /feedback, /users/{id} and the journal. What was acknowledged is sought where it must be.

In comes who writes and keeps account of it, the service that is written to, and rows of what happens to it meanwhile.
"""
