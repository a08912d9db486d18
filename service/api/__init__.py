"""HTTP: routes, and what every request passes on its way in and out.

In comes what knows methods, paths, headers and status codes; what a request is answered with comes from elsewhere.
"""
