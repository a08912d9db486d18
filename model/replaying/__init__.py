"""The parity proof: what the log says was served, scored again from the log itself and from events.

In come the log's tables, bundles and other data sets' tables; nothing of the service, and no torch.
"""
