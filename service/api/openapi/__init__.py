"""The OpenAPI document, which clients are generated from. A file here documents what another one does.

It may know the table of routes and the shapes of wire/; of the service only application.py knows it.
"""
