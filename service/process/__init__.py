"""Processes: the parent that is `python -m service`, its workers, the admin process, and what they tell each other.

The parent answers no request and imports no onnxruntime: it starts, replaces, swaps and stops.
"""
