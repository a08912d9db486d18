"""glibc's malloc, told to keep what a training step frees.

A step's large arrays are freed at its end and needed again at the next one. By default glibc gives them back to the
kernel, which then zeroes every page anew: a quarter of the time of a BST step (model/LOG.md, 2026-11-21).
"""

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>
SETTINGS = {MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: (1 << 31) - 1, TOP_PAD: 1 << 26}


def keep_freed() -> None:
    """From now on this process reuses freed blocks below 1 GiB. Does nothing where there is no glibc."""
    with suppress(AttributeError, OSError, TypeError):  # another C library; on Windows none is found by that name
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in SETTINGS.items():
            mallopt(parameter, value)
