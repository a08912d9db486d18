"""What stands in for a store that fails: patience, a breaker, what was read lately, and a line in the log.

In comes what turns a store that may fail into a history that answers; no client, no key and no format.
"""
