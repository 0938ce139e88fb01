"""A real S3 server on this machine: moto's, in a process of its own."""

from __future__ import annotations

import http.client
import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

__all__ = ["S3Server", "needs_s3"]

needs_s3 = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "flask_cors")),
    reason="moto's server is not installed: pip install -e '.[dev]'",
)

SECRET = "planted-secret-access-key-0123456789"


class S3Server:
    """Serves one bucket on the loopback, from memory; use ``with``.

    Args:
        log: File for what it prints.
        bucket: Made at the start.
        guarded: Whether it asks for credentials, and knows none that are right.
    """

    def __init__(self, log: Path, bucket: str = "sweeps", guarded: bool = False) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.bucket, self._log, self._guarded = bucket, log, guarded
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, empty but for the bucket; on the same port as before."""
        code = (
            "import os, sys; from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app;"
            "from werkzeug.serving import run_simple;"
            "run_simple('127.0.0.1', int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=True)"
        )
        # One call is free of credentials: that which makes the bucket.
        environment = self.environment | ({"INITIAL_NO_AUTH_ACTION_COUNT": "1"} if self._guarded else {})
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, str(self.port)], stdout=log, stderr=log, env=environment
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("PUT", f"/{self.bucket}")
                assert connection.getresponse().status == 200
                return
            except OSError:
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """End it, as a network that goes away does; what it held is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def environment(self) -> dict[str, str]:
        """For who is to find it, credentials included."""
        import os

        return {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "planted-access-key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }

    def uri(self, folder: str) -> str:
        """Of a folder in the bucket; where the server is says the environment."""
        return f"s3://{self.bucket}/{folder}"
