"""Services that come and go under load: instances, their store and its failover, a balancer, who watches them.

In comes what a rolling restart or several instances need besides the generator, and what became of their callers.
"""
