"""A deadline over a whole HTTP request, and a limit on its reply.

The timeouts of HTTP libraries are per read: a server that sends a byte now and then holds a thread without end.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

import httpcore2
import httpx2

MOST_BYTES: Final = 16 << 20
"""Of a reply."""

_request = threading.local()


def limit_requests(client: httpx2.Client, seconds: float) -> None:
    """Give each request of a client a deadline, from its first connection to the last byte of the reply."""
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            # httpx has no option for it. The tests send replies that drip.
            transport._pool._network_backend = _Backend()
    send = client.send

    def send_in_time(*args: Any, **options: Any) -> httpx2.Response:
        _request.deadline, _request.left = time.monotonic() + seconds, MOST_BYTES
        return send(*args, **options)

    client.send = send_in_time  # type: ignore[method-assign]


def _seconds_left(timeout: float | None) -> float:
    left: float = getattr(_request, "deadline", time.monotonic()) - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("the reply is not complete in time")
    return left if timeout is None else min(left, timeout)


class _Backend(httpcore2.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        return _Stream(super().connect_tcp(host, port, _seconds_left(timeout), local_address, socket_options))


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        found = self._stream.read(max_bytes, _seconds_left(timeout))
        _request.left = getattr(_request, "left", MOST_BYTES) - len(found)
        if _request.left < 0:
            raise httpcore2.ReadError(f"the reply has more than {MOST_BYTES >> 20} MiB")
        return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _seconds_left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _seconds_left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
