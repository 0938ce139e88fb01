"""SECURITY.md: each promise names a test that exists, and what no single part of the code could show is shown here."""

from __future__ import annotations

import ast
import hashlib
import re
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import sweepft
from support.specs import spec
from sweepft.cli import process
from sweepft.driver import ray_job
from sweepft.mirror.store import Store

ROOT = Path(__file__).parents[2]
PACKAGE = Path(sweepft.__file__).parent
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def promises() -> list[str]:
    """The bullets under Protections, each with its further lines."""
    text = PAGE.partition("## Protections")[2].partition("\n## ")[0]
    return re.split(r"^- ", text, flags=re.MULTILINE)[1:]


def test_page__each_promise_names_its_test() -> None:
    assert len(promises()) > 20
    assert [p[:60] for p in promises() if "tests/" not in p] == []


def test_page__each_test_that_it_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 30
    assert len(named) == PAGE.count("`tests/"), "each is written as `tests/FILE.py` or `tests/FILE.py::test`"
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert f"def {test or 'test_'}" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


# Calls that may run what they read, and why they stay.
ALLOWED = {
    (
        "driver/fault_policy.py",
        "pickle.loads",
    ): "Ray's error for a lost slot, which this driver's Ray has just written",
}
RUNS = {
    "pickle": {"load", "loads", "Unpickler"}, "cloudpickle": {"load", "loads"}, "torch": {"load"}, "joblib": {"load"},
    "marshal": {"load", "loads"}, "shelve": {"open"}, "os": {"system", "popen"}, "yaml": {"load", "unsafe_load", "full_load"},
    "np": {"load"}, "numpy": {"load"},
}  # fmt: skip


def runs_what_it_reads(source: str) -> set[str]:
    """Calls in a module that load pickles, evaluate text, or give a text to a shell."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in ("eval", "exec", "compile", "__import__"):
            found.add(called.id)
        module = getattr(getattr(called, "value", None), "id", "")
        if isinstance(called, ast.Attribute) and called.attr in RUNS.get(module, ()):
            found.add(f"{module}.{called.attr}")
        if any(k.arg == "shell" and getattr(k.value, "value", False) is True for k in node.keywords):
            found.add("shell=True")
    return found


def test_package__runs_nothing_that_it_reads() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), call)
        for path in PACKAGE.rglob("*.py")
        for call in runs_what_it_reads(path.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED)
    assert runs_what_it_reads("torch.load(f)\neval('1')\nrun(x, shell=True)") == {
        "torch.load",
        "eval",
        "shell=True",
    }


def test_unexpected_error__is_one_line_with_a_traceback_in_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = "hf_" + "Q7xPplantedplanted9Zk"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert process._unexpected(KeyError(f"\x1b[2J {token}")) == 70
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert "\x1b" not in said
    (file,) = tmp_path.rglob("traceback.txt")
    assert str(file) in said
    assert "KeyError" in file.read_text()
    assert token not in said + file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_usage_error__shows_what_was_given_without_its_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sweepft", "init", "\x1b]0;P\x07", "--nothing"])
    assert process._run() == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("train", "x" * 300),
        ("mirror", "FILE/run", "tpe"),
        ("fetch", "file:///x", "a/" * 3000),
        ("status", "x" * 5000),
    ],
)
def test_path__that_the_system_refuses_is_no_fault_of_sweepft(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        "sys.argv", ["sweepft", *(word.replace("FILE", str(tmp_path / "file")) for word in words)]
    )
    assert process._run() in (1, 2)
    assert "unexpected" not in capsys.readouterr().err


def test_mirror__on_a_disk_is_private(tmp_path: Path) -> None:
    Store(f"file://{tmp_path}/mirror/of-x").write("ledger/a", b"x")
    assert stat.S_IMODE((tmp_path / "mirror" / "of-x").stat().st_mode) == 0o700


def test_mirror__reads_no_more_of_an_object_than_its_manifest_says(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/mirror/of-x")
    store.write("weights/a", b"x" * (64 << 20))
    assert store.fetch("weights/a", tmp_path / "a", 64 << 20) == hashlib.sha256(b"x" * (64 << 20)).hexdigest()
    assert store.fetch("weights/a", tmp_path / "b", 10) != store.fetch("weights/a", tmp_path / "c", 64 << 20)
    assert (tmp_path / "b").stat().st_size < 32 << 20


def test_job__takes_no_variable_of_this_environment_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class Client:
        def submit_job(self, **job: Any) -> None:
            given.update(job)

    @contextmanager
    def server(address: str) -> Any:
        yield Client()

    monkeypatch.setattr(ray_job, "_server", server)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "planted-in-the-environment")
    ray_job.submit_sweep(spec(), Path("/shared/run"), "http://127.0.0.1:1", tmp_path / "note")
    assert set(given["runtime_env"]["env_vars"]) == {"RAY_JOB_STOP_WAIT_TIME_S"}
    assert "planted-in-the-environment" not in str(given)
