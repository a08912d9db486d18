"""Journals made into tables: which files may be taken, what their records become, where the tables stand.

In comes what `python -m service.drain` does; the journal's files are service/journal's, the tables model/servicelog's.
"""
