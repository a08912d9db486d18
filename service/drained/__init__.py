"""From closed journals to tables, exactly once through kills: what `python -m service.drain` is made of.

In comes what finds journal files, turns records into rows, writes tables and forgets users. It needs polars, which no
worker does: nothing that serves may import this.
"""
