"""The listening socket at which the ranks of a slot meet; loads no torch."""

from __future__ import annotations

import socket


def open_listener(address: str, port: int = 0) -> socket.socket:
    """A socket that listens at one address (torch would listen at all of them); port 0 takes a free port.

    Keep it open until the ranks have met, so that no other process takes the port.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)
