"""The training form of a log: four tables in, encoded arrays, vocabularies and catalogue out, and batches of them.

In comes what encodes or reads arrays; numpy and polars, no torch.
"""
