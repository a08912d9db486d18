"""How a bundle from elsewhere becomes a version in a folder with `current`: fetched, unpacked, checked, renamed.

In comes what reads archives and URLs; whoever made them is trusted with nothing but what the check lets through.
"""
