"""Offline: logs → networks → bundles; `model.features` and `model.bundle` are what the service shares."""

import os

from model.command import quiet_while_importing

# Huge pages for large tables where the system allows them (Linux, madvise): a tenth off a training step with a million
# items, the same numbers. torch reads it before its first tensor, so it must stand before any import of torch.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

quiet_while_importing()
