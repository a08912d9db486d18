"""The store's URL made into redis-py's clients: one server, Sentinel or Cluster, each also by TLS.

In comes what knows the kinds of stores; a caller gets a client with `pipeline` and `aclose`, whatever the kind.
"""

from service.store.clients.exchange import Commands, exchanged
from service.store.clients.opening import Client, address, advice, check, opened, opened_sync

__all__ = ["Client", "Commands", "address", "advice", "check", "exchanged", "opened", "opened_sync"]
