"""Users on their way into the store: read from JSON lines or a prepared data set's tables, checked, then written.

From the project it imports the store, model.features and the reader of text files.
"""
