"""A judge of flesh and blood, as far as HTTP goes: a server on loopback that answers as a test tells it to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server sends: a chat completion around ``text``, unless ``raw`` or another status is given."""

    text: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    hang_up: bool = False

    def payload(self) -> bytes:
        if self.raw is not None:
            return self.raw
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": self.text}}
        return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode()


@dataclass
class StandIn:
    """The server's address, and all it was asked: bodies, paths and headers."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def stand_in_judge(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[StandIn]:
    """Serve while the block runs.

    Args:
        answer: From the request's body, and how often this body was asked before, to what is sent.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                before = found.bodies.count(body)
                found.bodies.append(body)
                found.paths.append(self.path)
                found.headers.append({name.title(): value for name, value in self.headers.items()})
            reply = answer(body, before)
            if reply.hang_up:
                self.close_connection = True
                return
            payload = reply.payload()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = StandIn(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def dead_url() -> str:
    """An address without a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = server.server_address[1]
    server.server_close()
    return f"http://127.0.0.1:{port}/v1"
