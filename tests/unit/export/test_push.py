"""The winner on a hub: the hub's own client talks to a small server."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from support.errors import raises
from sweepft.errors import SweepftError
from sweepft.export.push import PushError, push_best


class Hub(ThreadingHTTPServer):
    """Takes repositories and commits, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            return self._answer({"url": f"{self._root}/org/name", "id": "org/name"})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._answer(
                {"commitUrl": f"{self._root}/org/name/commit/0", "commitOid": "0", "success": True}
            )
        return self._answer({"type": "regular"} if re.search("validate-yaml", self.path) else {})

    def do_GET(self) -> None:
        self._answer({"id": "org/name", "siblings": [], "sha": "0"})

    @property
    def _root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def _answer(self, found: Any) -> None:
        data = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub

    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    made = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made(endpoint=root, token="hf_" + "x" * 30))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("README.md", "model.safetensors", "spec.yaml", "trl.yaml", "adapter/adapter_config.json"):
        file = tmp_path / "run" / "best" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"of {name}" if name != "README.md" else "---\nlicense: mit\n---\ncard")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({}, {"README.md", "model.safetensors"}),
        ({"with_specs": True}, {"README.md", "model.safetensors", "spec.yaml", "trl.yaml"}),
        ({"adapter": True, "private": False}, {"adapter_config.json"}),
    ],
)
def test_push__uploads_what_is_meant(hub: Hub, run: Path, options: dict[str, Any], files: set[str]) -> None:
    assert push_best(run, "org/name", **options).endswith("/org/name")
    assert hub.files.keys() == files
    private = hub.created[0].get("private", hub.created[0].get("visibility") == "private")
    assert private is options.get("private", True)
    assert all(token.startswith("Bearer hf_") for token in hub.tokens)


@pytest.mark.parametrize(("repo", "adapter", "key"), [("name", False, "repo"), ("org/name", True, "adapter")])
def test_push__nothing_to_upload(tmp_path: Path, repo: str, adapter: bool, key: str) -> None:
    (tmp_path / "best").mkdir()
    with raises(PushError, key):
        push_best(tmp_path, repo, adapter=adapter)


def test_push__hub_that_cannot_be_reached(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    made = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made(endpoint="http://127.0.0.1:9"))
    with raises(SweepftError, "push.hub"):
        push_best(run, "org/name")
