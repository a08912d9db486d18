"""Experiments: who is shown which model, and what came of it.

In comes what reads experiments.toml, gives users their variants, counts for them, and takes a bad one out. How arms are
compared is comparing/; what the store keeps of them is store/ledger.py.
"""
