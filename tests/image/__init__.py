"""The image, built from the Dockerfile and run as docker-compose.yml runs it: `python -m tests.image`.

In comes what builds, starts and looks at containers, by Podman. The Debian root that stands in for Python's is base.py.
"""
