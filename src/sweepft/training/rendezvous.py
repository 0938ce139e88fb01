"""Where the ranks of a slot meet; loads no torch."""

from __future__ import annotations

import socket


def open_listener(address: str, port: int = 0) -> socket.socket:
    """A socket that listens at one address, where torch would listen at every one; port 0 takes a free one.

    Held from when the others are told of its port until the ranks have met, so that nobody takes the port meanwhile.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)
