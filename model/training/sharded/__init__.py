"""Embedding tables whose rows lie on several ranks, by TorchRec (the extra `sharded`): `model.train --shard-tables`.

What knows that a table is in parts comes in here: how parts are looked up, stepped, kept and put together. The rest of
training sees modules that answer rows. TorchRec is imported by torchrec_tables.py alone.
"""
