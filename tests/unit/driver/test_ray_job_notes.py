"""Ray Jobs, as far as no cluster is needed: what is refused before anything is sent, and the note that is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.errors import raises
from sweepft.cli.job import is_job
from sweepft.cli.main import cli
from sweepft.driver.ray_job import Job, job_metadata, noted_job, resume_job, submit_sweep, write_note
from sweepft.driver.run_folder import not_shared
from sweepft.errors import JobError
from sweepft.redact import REDACTED
from sweepft.spec import load

SPEC = Path(__file__).parents[1] / "spec" / "valid.yaml"


@pytest.mark.parametrize(
    ("address", "job"),
    [
        (None, False),
        ("auto", False),
        ("10.0.0.1:6379", False),
        ("http://head:8265", True),
        ("https://h", True),
    ],
)
def test_is_job_server__by_scheme(address: str | None, job: bool) -> None:
    assert is_job(address) is job


@pytest.mark.parametrize("out", [None, Path("runs/x")])
def test_submit_sweep__needs_absolute_run_dir(out: Path | None, tmp_path: Path) -> None:
    spec = load(SPEC, check_files=False)
    with raises(JobError, "--out"):
        submit_sweep(spec, out, "http://127.0.0.1:1", tmp_path / "note")
    assert not (tmp_path / "note").exists()


def test_submit_sweep__unreachable_server_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        submit_sweep(load(SPEC, check_files=False), tmp_path / "run", "http://127.0.0.1:1", tmp_path / "note")
    (problem,) = caught.value.problems
    assert problem.where == "http://127.0.0.1:1"
    assert "job server" in problem.remedy or "sweepft[cluster]" in problem.remedy


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


JOB = {"address": "http://h:8265", "submission_id": "sweepft-a-1", "run_dir": "/shared/a", "name": "a"}


def test_noted_job__reads_its_own_note(tmp_path: Path) -> None:
    assert noted_job(tmp_path) is None
    write_note(Job(**JOB), tmp_path)
    assert noted_job(tmp_path) == Job(**JOB)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        "[" * 20_000,
        json.dumps(JOB),
        json.dumps({**JOB, "address": 5}),
        json.dumps({**JOB, "x": 1}),
    ]
    + [
        json.dumps({**JOB, "address": a})
        for a in ("evilmod://x", "auto", "ray://h:1", "http://u:p@h:1", "http://h:1/x")
    ],
)
def test_noted_job__refuses_notes_of_others(tmp_path: Path, text: str) -> None:
    """Their address would be sent the cluster's token, or be imported as a module by Ray."""
    (tmp_path / "job.json").write_text(text)
    with raises(JobError, "job.note"):
        noted_job(tmp_path)
    for command in ("status", "logs", "stop"):
        done = CliRunner().invoke(cli, [command, str(tmp_path)])
        assert isinstance(done.exception, JobError)


def test_job_metadata__holds_no_secret(tmp_path: Path) -> None:
    planted = "hf_" + "plantedQ7xPplantedX9Zk"
    shown = job_metadata("a", f"/shared/token={planted}")
    assert shown["run_dir"] == f"/shared/token={REDACTED}"
    assert set(shown) == {"sweep", "run_dir", "who"}
    before = Job("http://127.0.0.1:1", "s", "/shared/a", "a")
    for override in (f"model.revision={planted}", "mirror.uri=s3://key:secret@bucket/x"):
        with raises(JobError, "--set") as caught:
            resume_job(before, [override], None, tmp_path / "note")
        assert override.partition("=")[2] not in str(caught.value)
    assert not (tmp_path / "note").exists()


def test_command__needs_the_run_folder_of_a_job(tmp_path: Path) -> None:
    job = {"address": "http://h:8265", "submission_id": "s", "run_dir": str(tmp_path / "far"), "name": "a"}
    write_note(Job(**job), tmp_path)
    done = CliRunner().invoke(cli, ["stop", str(tmp_path), "t001"])
    assert isinstance(done.exception, JobError)
    assert done.exception.key == "run_dir"


def test_not_shared__names_the_nodes() -> None:
    message = not_shared(Path("/scratch/run"), ["node-a", "node-b"], 3)
    assert message.startswith(
        "/scratch/run: 2 of 3 nodes of the cluster do not see the run folder: node-a, node-b\n"
    )
    assert "--out" in message
