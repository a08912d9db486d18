"""The kernel's stamps on what comes in by a listening socket's connections: see arrival.py, which reads them."""

import socket
import sys

SO_TIMESTAMPNS = 35  # of Linux; Python has no name for it


def stamped(listener: socket.socket) -> None:
    """Has the kernel stamp what comes in by this socket's connections, where it can."""
    if sys.platform == "linux":
        listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
