"""An address at which no cluster can be joined is refused within seconds, before a run folder is made."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from support.errors import raises
from support.specs import spec_dict
from sweepft.driver import cluster_address
from sweepft.driver.cluster_address import check_address
from sweepft.driver.start import start_sweep
from sweepft.errors import ClusterError, JobError
from sweepft.spec import from_dict


@pytest.fixture
def web_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """It takes connections and never answers."""
    monkeypatch.setattr(cluster_address, "_CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("foo", "must be auto"),
        ("", "must be auto"),
        ("10.0.0.5", "must be auto"),
        (":6379", "must be auto"),
        ("head:port", "must be auto"),
        ("head:70000", "must be auto"),
        ("head:0", "must be auto"),
        ("ray://head:10001", "Ray Client"),
        ("no-such-host.invalid:6379", "cannot be reached"),
    ],
)
def test_check_address__refuses_what_is_no_address(address: str, rule: str) -> None:
    with raises(ClusterError, "--address") as caught:
        check_address(address)
    assert rule in str(caught.value)
    assert "Ray on this machine" in str(caught.value) or "http://" in str(caught.value)


@pytest.mark.parametrize("server", ["web_server", "silent_server", "closed_port"])
def test_check_address__refuses_what_is_no_cluster(server: str, request: pytest.FixtureRequest) -> None:
    with raises(ClusterError, "--address"):
        check_address(request.getfixturevalue(server))


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (["ConnectionError", "Could not find any running Ray instance."], "no Ray cluster runs"),
        (["ConnectionError", "Found multiple active Ray instances: {'a:1', 'b:1'}."], "multiple active"),
        (["RuntimeError", "Version mismatch: The cluster was started with:\n  Ray: 2.9"], "Ray: 2.9"),
        (["AuthenticationError", "no token"], "token"),
        (["ConnectionError", "Failed to connect"], "cannot be joined: Failed to connect"),
    ],
)
def test_check_address__explains_why_ray_cannot_join(
    error: list[str], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_address, "_JOIN", f"import json; print(json.dumps({error!r}))")
    with raises(ClusterError, "--address") as caught:
        check_address("auto")
    assert rule in str(caught.value)


_WANTS_TOKEN = """
import json, os
token = os.environ.get("RAY_AUTH_MODE") == "token" and os.environ.get("RAY_AUTH_TOKEN") == "right"
print(json.dumps([] if token else ["ConnectionError", "Failed to connect to Ray cluster"]))
"""


@pytest.mark.parametrize(
    ("mode", "token", "joins"),
    [(None, "right", True), (None, None, False), (None, "wrong", False), ("disabled", "right", False), ("token", "right", True)],
)  # fmt: skip
def test_check_address__tries_the_token_of_this_machine(
    mode: str | None, token: str | None, joins: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster_address, "_JOIN", _WANTS_TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("RAY_AUTH_MODE", mode), ("RAY_AUTH_TOKEN", token)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(cluster_address, "use_token", lambda: monkeypatch.setenv("RAY_AUTH_MODE", "token"))
    if joins:
        check_address("auto")
        assert os.environ["RAY_AUTH_MODE"] == "token"
        return
    with raises(ClusterError, "--address"):
        check_address("auto")
    assert os.environ.get("RAY_AUTH_MODE") == mode


def test_check_address__ends_a_join_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray has printed that it fails. A machine that is only slow is left to Ray."""
    hanging = (
        "import signal, time; signal.signal(signal.SIGALRM, signal.SIG_DFL); signal.alarm(1); time.sleep(600)"
    )
    monkeypatch.setattr(cluster_address, "_JOIN", hanging)
    check_address("auto")
    failing = "import sys; print('Failed to connect to GCS', file=sys.stderr, flush=True); "
    monkeypatch.setattr(cluster_address, "_JOIN", failing + hanging)
    with raises(ClusterError, "--address") as caught:
        check_address("auto")
    assert "no answer" in str(caught.value)


def test_start_sweep__wrong_address_leaves_no_folder(tmp_path: Path, closed_port: str) -> None:
    with raises(ClusterError, "--address"):
        start_sweep(from_dict(spec_dict()), tmp_path / "run", address=closed_port)
    assert not (tmp_path / "run").exists()


def test_submit__unreachable_job_server(tmp_path: Path, closed_port: str) -> None:
    from sweepft.driver.ray_job import submit_sweep

    with raises(JobError, "--address"):
        submit_sweep(from_dict(spec_dict()), tmp_path / "run", f"http://{closed_port}", tmp_path / "note")
    assert not (tmp_path / "note").exists()
