"""Arms of an experiment compared, from the drained log: what `python -m service.experiments` is made of.

In comes what finds arms, counts their clicks, says how sure one may be, and shows it. It needs polars, duckdb and
matplotlib, which no worker does: nothing that serves may import this.
"""
