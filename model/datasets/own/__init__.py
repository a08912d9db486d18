"""A user's own tables, of any common form: found, cast without loss, checked; and a first features.toml of them.

From the project it imports the engine, model.features, and of data sets what all share; parquet.py is the way through.
"""
