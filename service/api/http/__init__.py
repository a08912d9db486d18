"""HTTP/1.1 as it comes in, before the application: the protocol, its limits, and all connections of a process.

Nothing of ranking is here; uvicorn, errors and metrics' names may come in.
"""
