"""What HTTP asks of every route alike: HEAD and OPTIONS, a path prefix, CORS, compressed answers.

In comes what knows no route by name: the routes are handed in.
"""
