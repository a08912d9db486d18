"""The service's log: what was shown and what came back, as the service writes it and training reads it.

What `service/` and `model/` must agree on: records of the journal, the tables that it is drained into, and which click
belongs to which impression.
"""
