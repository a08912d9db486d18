"""The model that answers, and the threads that run it.

In comes what knows bundles and sessions; nothing of HTTP or the store.
"""
