"""How another bundle goes live: fetched, checked in a process of its own, loaded beside the one that answers, switched.

`check` and `loading` import model.bundle; what the parent runs does not.
"""
