"""Checks a cluster's address before anything is written: its form, that a cluster answers, and that Ray can join it.

Ray itself retries an address that does not answer for minutes. The last check joins the cluster in a child process,
which can be ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from sweepft.bounded_json import read_json
from sweepft.errors import ClusterError, Problem
from sweepft.redact import redact

_CONNECT_SECONDS: Final = 5.0
_JOIN_SECONDS: Final = 9
_START_SECONDS: Final = 60.0  # for the child to import Ray, on a busy machine

_FAILURES: Final = ("Failed to connect", "Failed to get", "Unauthenticated", "AuthToken")
"""What Ray prints while it tries again."""

AUTH_MODE: Final = "RAY_AUTH_MODE"
"""Ray's variable: ``token`` or ``disabled``."""

_HOST_PORT: Final = re.compile(r"\[?(?P<host>[\w.:%-]+?)\]?:(?P<port>\d{1,5})", re.ASCII)
_HERE: Final = "leave out --address to start Ray on this machine"

_JOIN: Final = f"""
import json, signal, sys
import ray
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.alarm({_JOIN_SECONDS})
try:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
else:
    print(json.dumps([]))
    ray.shutdown()
"""


def check_address(address: str | None) -> None:
    """Refuse an address that no cluster can be joined at, within seconds.

    Args:
        address: ``auto``, ``HOST:PORT``, or None for a local Ray.
    Raises:
        ClusterError: With the remedy.
    """
    if address is None:
        return
    if address.startswith("ray://"):
        raise _refused(
            address,
            "is an address of Ray Client, which sweepft does not use",
            "on a node of the cluster: --address auto; from elsewhere, as a Ray Job: --address http://HEAD:8265",
        )
    if address != "auto":
        match = _HOST_PORT.fullmatch(address)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise _refused(
                address,
                "must be auto, HOST:PORT or http://HOST:PORT",
                f"for example --address 10.0.0.5:6379; {_HERE}",
            )
        _connect(address, match["host"], int(match["port"]))
    _join(address)


def _connect(address: str, host: str, port: int) -> None:
    """Make sure that a gRPC server, as Ray's is, answers there: it begins with a frame of settings."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as server:
            server.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            answer = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                while len(answer) < 4 and (more := server.recv(64)):
                    answer += more
    except OSError as error:
        raise _refused(
            address,
            f"cannot be reached: {error.strerror or error}",
            f"is the cluster up, and this port (6379 by default) open to this machine? else {_HERE}",
        ) from None
    if answer[3:4] != b"\x04":
        raise _refused(
            address,
            "is not the port of a Ray cluster",
            "name the port of `ray start --head`, 6379 by default; as a Ray Job: --address http://HEAD:8265",
        )


def _join(address: str) -> None:
    """Join and leave the cluster in a child process.

    A child that ends without an answer and without a word of failure is on a busy machine: Ray itself decides then.
    Where the user has set no mode of authentication, a token of this machine is tried too, which an explicit address
    does not make Ray do; if it is taken, this process and its children use it.
    """
    problem = _try_to_join(address)
    if problem is None:
        return
    if may_use_token() and not problem.elsewhere:
        second = _try_to_join(address, {AUTH_MODE: "token"})
        if second is None:
            use_token()
            return
        problem = second if second.about_token else problem
    _refuse(address, problem)


@dataclass(frozen=True)
class _Refusal:
    """What Ray said when a child could not join: the error's class and text, and what it printed."""

    kind: str
    message: str
    printed: str

    @property
    def about_token(self) -> bool:
        text = self.printed + self.message
        return "AuthToken" in text or "Unauthenticated" in text or "Authentication" in self.kind

    @property
    def elsewhere(self) -> bool:
        """Whether a token cannot help."""
        others = (
            "Could not find any running Ray instance",
            "multiple active Ray instances",
            "ersion mismatch",
        )
        return any(words in self.message for words in others)


def _try_to_join(address: str, more: Mapping[str, str] | None = None) -> _Refusal | None:
    """Join in a child process, with more variables in its environment; what went wrong, or None."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_JOB_CONFIG")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _JOIN, address],
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_SECONDS + _JOIN_SECONDS,
            env={"RAY_USAGE_STATS_ENABLED": "0"} | environment | dict(more or {}),
        )
    except subprocess.TimeoutExpired:
        return None
    said, printed = done.stdout.strip().splitlines()[-1:], done.stderr
    try:
        found: list[str] = read_json(said[0]) if said else ["TimeoutError", "no answer"]
    except ValueError:
        found = ["ValueError", said[0]]
    silent = not said and done.returncode == -signal.SIGALRM and not any(w in printed for w in _FAILURES)
    if not found or silent:
        return None
    return _Refusal(found[0], found[1], printed)


def has_token() -> bool:
    """Whether this machine has a token for Ray clusters, in the environment or in its usual file."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path("~/.ray/auth_token").expanduser()
    return Path(file).is_file()


def may_use_token() -> bool:
    """Whether a token can be tried where a cluster refuses to be joined without one."""
    return not os.environ.get(AUTH_MODE) and has_token()


def use_token() -> None:
    """Have Ray use this machine's token, in this process and its children; also where Ray is imported already."""
    os.environ[AUTH_MODE] = "token"
    if (raylet := sys.modules.get("ray._raylet")) is not None:
        raylet.Config.initialize("")


def _refuse(address: str, refusal: _Refusal) -> NoReturn:
    """Raise what a person can do about it."""
    kind, message = refusal.kind, refusal.message
    first = redact((message.strip().splitlines() or [kind])[0])
    if "Could not find any running Ray instance" in message:
        raise _refused(address, "no Ray cluster runs on this machine", f"name one as HOST:PORT; {_HERE}")
    if "multiple active Ray instances" in message:
        raise _refused(address, first, "name one of them as HOST:PORT")
    if refusal.about_token:
        raise _refused(
            address,
            "the cluster refuses this machine's token" if has_token() else "the cluster wants a token",
            "set RAY_AUTH_MODE=token, and give the cluster's token (on its head: ray get-auth-token) in RAY_AUTH_TOKEN "
            "or ~/.ray/auth_token",
        )
    if "ersion mismatch" in message:
        versions = " ".join(message.split())
        raise _refused(
            address, redact(versions), "install the versions of Ray and Python that the cluster has"
        )
    raise _refused(
        address,
        f"the cluster cannot be joined: {first}",
        f"run `ray status --address {address}` on its head; is it up? else {_HERE}",
    )


def _refused(address: str, rule: str, remedy: str) -> ClusterError:
    return ClusterError([Problem(redact(address), "--address", rule, remedy)])
