"""The dashboard needs a study and optuna-dashboard, names what is missing, and serves on loopback only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.errors import raises
from sweepft import extras
from sweepft.errors import SweepftError
from sweepft.search import STUDY_FILE, open_study
from sweepft.search.study import serve_dashboard


def test_dashboard__refuses_a_folder_without_a_study(tmp_path: Path) -> None:
    with raises(SweepftError, "dashboard.study"):
        serve_dashboard(tmp_path, 8080)


def test_dashboard__missing_package_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_study(tmp_path / STUDY_FILE, "a")
    monkeypatch.setattr(extras, "is_installed", lambda module: False)
    with raises(extras.MissingPackages, "dashboard.missing"):
        serve_dashboard(tmp_path, 8080)


@pytest.mark.skipif(find_spec("optuna_dashboard") is None, reason="optuna-dashboard is not installed")
def test_dashboard__shows_the_study_of_the_run(tmp_path: Path) -> None:
    study, _ = open_study(tmp_path / STUDY_FILE, "my-sweep")
    study.tell(study.ask(), 1.0)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "sweepft.cli", "dashboard", str(tmp_path), "--port", str(port)]
    server = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert "my-sweep" in _read(server, f"http://127.0.0.1:{port}/api/studies")
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert again.returncode == 1
        assert f"--port {port}: Address already in use" in again.stderr
    finally:
        server.terminate()
        server.wait()


def _read(server: subprocess.Popen[bytes], url: str) -> str:
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url) as answer:
                return str(answer.read().decode())
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the dashboard ended by itself")
