"""The service's log: what was shown and what came back, as the service writes it and training reads it.

Shapes alone, so that `service/` and `model/` agree on them: records of the journal, tables that it is drained into.
"""
