"""Hostile command lines, steering commands and notes about jobs: a result or an error of sweepft's own, never a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest

from support import forged
from support.fuzzing import CASES, FULL, HOSTILE, check, damage, mutate, run_cases
from support.specs import spec_dict
from sweepft.cli import process
from sweepft.driver.commands import clone_params, command_problem
from sweepft.driver.progress import describe_run, status_of
from sweepft.driver.ray_job import Job, noted_job, write_note
from sweepft.ledger import Command, CommandInbox, SweepState
from sweepft.ledger.codec import encode_row
from sweepft.ledger.commands import COMMANDS, commands_path
from sweepft.spec import from_dict

# What starts no sweep, server or child process with arguments that are not sound.
NAMES = ("status", "report", "replay", "validate", "stop", "pin", "clone", "extend", "pause", "continue", "logs", "schema", "presets",
         "run", "train", "resume", "plan", "data", "fetch", "mirror", "track", "push", "init", "watch", "dashboard", "nothing")  # fmt: skip
OPTIONS = ("--json", "--out", "--set", "--address", "--trials", "--port", "--no-ray", "--for", "--gpus", "--from", "--row", "--retry-failed",
           "--take-over", "--follow", "--rule", "--help", "--version", "--rows", "--md", "--to", "--limit", "-x", "--", "--data")  # fmt: skip


def _texts(folder: Path) -> tuple[str, ...]:
    whole_disk = ("/", "../" * 50)  # which replay would search for runs
    hostile = [v for v in HOSTILE if isinstance(v, str) and "\0" not in v and v not in whole_disk]
    hostile = [v.encode("utf-8", "replace").decode() for v in hostile]
    places = [
        folder / name
        for name in ("missing", "file", "empty", "forged", "loop", "pipe", "forged/ledger/ledger.jsonl")
    ]
    return (
        *hostile,
        *map(str, places),
        "t000",
        "t001",
        "1",
        "-1",
        "1e400",
        "²",
        "train.seed=1",
        "learning_rate=x",
        "a=b=c",
        "=",
        "9" * 5000,
    )


@pytest.mark.parametrize("cases", [100, pytest.param(CASES, marks=FULL)])
def test_fuzz__command_lines(cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    monkeypatch.setenv("HOME", str(inside))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("tempfile.tempdir", str(inside))
    (inside / "file").write_bytes(b"\x00\xff")
    (inside / "empty").mkdir()
    (inside / "loop").symlink_to("loop")
    os.mkfifo(inside / "pipe")
    good, texts = forged.rows(), _texts(inside)

    def case(random: Random) -> None:
        forged.write(inside / "forged", forged.forge(good, random) if random.random() < 0.5 else good)
        words = [random.choice(NAMES)]
        for _ in range(random.choice((0, 1, 1, 2, 2, 3, 5))):
            words.append(random.choice(OPTIONS) if random.random() < 0.4 else random.choice(texts))
        monkeypatch.setattr(sys, "argv", ["sweepft", *words])
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                code = process._run()
            except SystemExit as leaving:
                code = leaving.code
        if "unexpected" in out.getvalue() and code == 70:
            where = out.getvalue().strip().split()[-1]
            raise AssertionError(
                f"{words}: {out.getvalue()[:300]} {Path(where).read_text()[-400:] if where.endswith('.txt') else ''}"
            )
        assert "\x1b]0;" not in out.getvalue(), words

    found = run_cases(cases, cases, inside, case)
    for place in ("open /tmp", "open /tmp/ray", "os.mkdir /tmp", "os.mkdir /tmp/ray"):
        found.pop(f"wrote {place}", None)  # by Ray, when it looks for a running cluster
    check(found, cases, both=False)


@pytest.mark.parametrize("cases", [300, pytest.param(CASES, marks=FULL)])
def test_fuzz__steering_commands(cases: int, tmp_path: Path) -> None:
    spec = from_dict(
        spec_dict(
            search={
                "trials": 4,
                "space": {"batch_size": {"choice": [4, 8]}, "learning_rate": {"log_uniform": [1e-5, 1e-2]}},
            }
        )
    )
    view = SweepState.from_rows(forged.rows())
    known = [
        Command.new("stop"), Command.new("pin", "t003"), Command.new("clone", "t000", {"params": {"learning_rate": 1e-3}}),
        Command.new("extend", None, {"trials": 9}), Command.new("pause"),
    ]  # fmt: skip
    taken = 0

    def case(random: Random) -> None:
        nonlocal taken
        path = commands_path(tmp_path)
        path.parent.mkdir(exist_ok=True)
        lines = b""
        for _ in range(random.choice((1, 2, 5))):
            row = asdict(random.choice(known))
            row = mutate(row, random) if random.random() < 0.7 else row
            try:
                line = encode_row(forged._written(row))
            except (ValueError, TypeError, AttributeError):
                continue
            lines += damage(line, random) if random.random() < 0.3 else line
        path.write_bytes(lines)
        for command in CommandInbox(tmp_path).new():
            taken += 1
            assert command.command in COMMANDS
            if (
                command_problem(command, view, spec) is None
                and command.command == "clone"
                and command.trial_id
            ):
                clone_params(command, view.trials[command.trial_id])

    check(run_cases(cases, cases, tmp_path, case), cases, both=False)
    assert taken > cases // 10


@pytest.mark.parametrize("cases", [300, pytest.param(CASES, marks=FULL)])
def test_fuzz__notes_about_jobs(cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a note that is registered as this user's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    own = Job("http://127.0.0.1:1", "sweepft-x-1", "/shared/x", "x")
    run = tmp_path / "run"

    def case(random: Random) -> None:
        note: Any = mutate(asdict(own), random)
        if random.random() < 0.3 and isinstance(note, dict) and note.keys() == asdict(own).keys():
            with contextlib.suppress(TypeError, ValueError, UnicodeEncodeError):
                write_note(Job(**note), run)
        elif random.random() < 0.3:
            write_note(own, run)
        else:
            data = json.dumps(note).encode()
            run.mkdir(exist_ok=True)
            (run / "job.json").write_bytes(damage(data, random) if random.random() < 0.5 else data)
        job = noted_job(run)
        assert job is None or job.address.startswith(("http://", "https://"))
        with contextlib.suppress(process.SweepftError):
            describe_run(status_of(run))

    check(run_cases(cases, cases, tmp_path, case), cases)
