"""Load against budgets by HTTP alone, and benchmarks side by side: a command a file."""

import model.command  # noqa: F401 - Ctrl-C while a command of this room imports what it needs ends in one line
