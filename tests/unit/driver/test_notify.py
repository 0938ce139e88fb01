"""The message at the end of a sweep: what is sent, to whom, and that no failure of it reaches the sweep."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from support.specs import spec
from sweepft.driver import notify
from sweepft.driver.notify import VARIABLE, notified, with_secret_apart
from sweepft.errors import LeaseLost, SpecError
from sweepft.interrupts import Interrupted
from sweepft.redact import redact
from sweepft.spec import SweepSpec, dump


class Server(ThreadingHTTPServer):
    """Answers POST by its path: /ok, /gone (410), /moved (a redirect to /ok), /slow (never)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[dict[str, Any]] = []
        self.released = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}?key=VERYSECRET"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/slow":
            self.server.released.wait(60)
        self.send_response({"/gone": 410, "/moved": 302}.get(path, 200))
        if path == "/moved":
            self.send_header("Location", self.server.url("ok"))
        self.end_headers()
        if path == "/ok":
            self.server.got.append(json.loads(body))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one
        one.released.set()
        one.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())


STATE = LedgerBuilder(budget_samples=100).completed("t000", 1.5).completed("t001", 1.25).state()


def ended(
    to: dict[str, Any], warnings: list[str], error: BaseException | None = None, **result: Any
) -> SweepSpec:
    """A sweep that ends with a result, or an exception."""
    one = with_secret_apart(spec(notify=to), warnings.append)
    with notified(one, Path("/runs/one"), STATE, warnings.append) as results:
        if error is not None:
            raise error
        results.append(
            SimpleNamespace(**{"status": "finished", "fault": None, "interrupted": False, **result})
        )  # type: ignore[arg-type]
    return one


def test_webhook__gets_the_result(server: Server) -> None:
    warnings: list[str] = []
    ended({"webhook": server.url("ok")}, warnings)
    [got] = server.got
    assert warnings == []
    assert got["text"].startswith("sweep tiny: finished; 2 completed; best t001 with 1.2500; /runs/one on ")
    assert (got["status"], got["trials"], got["winner"]["trial_id"]) == ("finished", {"completed": 2}, "t001")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("no room left\nmore"), "failed"),
        (Interrupted(15), "interrupted"),
        (LeaseLost("/runs/one: another driver has it"), None),
    ],
)
def test_exception__is_passed_on_after_the_message(
    server: Server, error: BaseException, status: str | None
) -> None:
    with pytest.raises(type(error)) as caught:
        ended({"webhook": server.url("ok")}, [], error)
    assert caught.value is error
    assert [got["status"] for got in server.got] == ([status] if status else [])
    if status == "failed":
        assert "; no room left;" in server.got[0]["text"]


def test_signal_during_the_report__is_an_interruption(server: Server) -> None:
    ended({"webhook": server.url("ok")}, [], interrupted=True)
    ended({"webhook": server.url("ok")}, [], status="failed", fault="the first 3 trials all failed")
    assert [(got["status"], got["reason"]) for got in server.got] == [
        ("interrupted", None),
        ("failed", "the first 3 trials all failed"),
    ]


@pytest.mark.parametrize(
    ("path", "says"), [("gone", "410"), ("moved", "302"), ("slow", "no answer in 2 s"), (None, "refused")]
)
def test_webhook__that_fails_is_one_warning_without_its_address(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    path: str | None,
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notify, "_SECONDS", 2.0 if path == "slow" else 20.0)
    warnings: list[str] = []
    ended({"webhook": server.url(path) if path else "http://127.0.0.1:9/x?key=VERYSECRET"}, warnings)
    [warning] = warnings
    assert says in warning
    assert "VERYSECRET" not in warning + caplog.text
    assert server.got == []


def test_command__gets_the_message_in_its_environment_and_on_standard_input(tmp_path: Path) -> None:
    out, warnings = tmp_path / "out", list[str]()
    script = f"import os, sys; open({str(out)!r}, 'a').write(os.environ['SWEEPFT_TEXT'] + sys.stdin.read())"
    ended({"command": [sys.executable, "-c", script]}, warnings)
    ended({"command": f'echo "$SWEEPFT_STATUS $SWEEPFT_NAME" >> {shlex.quote(str(out))}; exit 3'}, warnings)
    text = out.read_text()
    assert text.startswith("sweep tiny: finished; ")
    assert '"status": "finished"' in text
    assert text.endswith("finished tiny\n")
    assert [w for w in warnings if "exit status 3" in w] == warnings
    assert len(warnings) == 1


def test_command__that_hangs_is_killed_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    for seconds in (2, 10, 30):  # the first in which the command gets as far as to be killed
        monkeypatch.setattr(notify, "_SECONDS", float(seconds))
        warnings: list[str] = []
        ended({"command": f"sleep 600 & echo $! > {pid}; wait"}, warnings)
        assert warnings == [f"notify: the command failed: no answer in {seconds} s"]
        if pid.exists():
            break
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie where nobody collects it
        assert psutil.Process(int(pid.read_text())).status() == psutil.STATUS_ZOMBIE


def test_address__is_kept_in_the_environment_alone() -> None:
    address = "https://hooks.example.com/services/T0/VERYSECRET"
    one = with_secret_apart(spec(notify={"webhook": address}))
    assert os.environ[VARIABLE] == address
    assert "VERYSECRET" not in repr(one) + dump(one) + json.dumps(one.to_dict())
    assert "VERYSECRET" not in redact(f"sweepft run --set notify.webhook={address}")
    assert "VERYSECRET" not in repr(spec(notify={"webhook": address}))


@pytest.mark.parametrize("reference", ["$MY_CHANNEL", "${MY_CHANNEL}"])
def test_reference__is_looked_up_when_the_sweep_starts(reference: str) -> None:
    warnings: list[str] = []
    os.environ["MY_CHANNEL"] = "https://example.com/VERYSECRET"
    one = with_secret_apart(spec(notify={"webhook": reference}), warnings.append)
    assert one.notify is not None
    assert one.notify.webhook == reference
    assert warnings == []
    assert "VERYSECRET" not in redact("POST https://example.com/VERYSECRET")
    del os.environ["MY_CHANNEL"]
    ended({"webhook": reference}, warnings)
    assert warnings == [
        "notify: MY_CHANNEL is not set in the environment: no message will be sent to the webhook"
    ]


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({}, "notify"),
        ({"webhook": "hooks.example.com/x"}, "notify.webhook"),
        ({"webhook": "file:///etc/passwd"}, "notify.webhook"),
        ({"webhook": "https://me:secret@example.com/x"}, "notify.webhook"),
        ({"webhook": "https:///x"}, "notify.webhook"),
        ({"webhook": "$NO NAME"}, "notify.webhook"),
        ({"command": ""}, "notify.command"),
        ({"command": []}, "notify.command"),
        ({"command": ["a", 1]}, "notify.command.1"),
        ({"email": "me@example.com"}, "notify.email"),
    ],
)
def test_section__problems(section: dict[str, Any], key: str) -> None:
    with raises(SpecError, key):
        spec(notify=section)
