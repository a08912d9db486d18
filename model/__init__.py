"""Offline: logs → networks → bundles; `model.features` and `model.bundle` are what the service shares."""

import os

from model.command import quiet_while_importing
from model.cores import bind_packages
from model.quiet import be_quiet

# Huge pages for large tables where the system allows them (Linux, madvise): a tenth off a training step with a million
# items, the same numbers. torch reads it before its first tensor, so it must stand before any import of torch.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

be_quiet()  # before whatever would phone home is imported
bind_packages()  # likewise, before whatever counts cores
quiet_while_importing()
