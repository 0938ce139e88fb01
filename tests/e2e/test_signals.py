"""Signals and closed terminals at every moment of a command: it ends resumable, and no process stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.faults import rows_of
from support.sweeps import write_spec
from support.terminals import OnTerminal, below, gone, sweepft, until
from sweepft.driver.progress import status_of
from sweepft.ledger import read_ledger

pytestmark = pytest.mark.chaos

SEARCH = {
    "trials": 2,
    "start_with": [{"learning_rate": 3.0e-3, "batch_size": 8}],
    "space": {"batch_size": {"choice": [8, 16]}, "learning_rate": {"log_uniform": [1.0e-5, 3.0e-2]}},
}


@pytest.fixture
def spec(tiny_model_dir, tiny_data_file, tmp_path):
    return write_spec(
        tmp_path, tiny_model_dir, tiny_data_file, search=SEARCH, resources={"concurrent_trials": 1}
    )


MOMENTS = {
    "tokenising": lambda process, run: below(process, "sweepft.data"),
    "before the first trial": lambda process, run: rows_of(run, "sweep"),
    "ray starts": lambda process, run: below(process, "gcs_server"),
    "trials": lambda process, run: rows_of(run, "steps"),
}

AT_THE_END = """
import os, sys
import sweepft.driver.sweep as sweep
from sweepft.cli import main

name, number = sys.argv.pop(1), int(sys.argv.pop(1))
write = getattr(sweep, name)

def signalled(*arguments, **options):
    if not options:  # not the report of a running sweep
        os.kill(os.getpid(), number)
    return write(*arguments, **options)

setattr(sweep, name, signalled)
main()
"""
"""The command, with a signal to itself where it writes the report or best/: too short a time to hit from outside."""


def signal_at(moment: str, number: int, process: subprocess.Popen, run: Path) -> list:
    """Send a signal to a stopped process, so that the moment cannot pass. Returns the processes below it then."""
    until(lambda: MOMENTS[moment](process, run), process)
    process.send_signal(signal.SIGSTOP)
    children = below(process)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    return children


def check_ended(process: subprocess.Popen, children: list, run: Path) -> None:
    assert process.wait(240) == 130, "what Slurm's script requeues"
    assert gone(children) == []
    if rows_of(run, "sweep"):
        assert read_ledger(run)[-1]["kind"] == "finish"
        assert (run / "report.html").is_file()
        assert status_of(run)["resume"] or status_of(run)["status"] == "finished"


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("tokenising", signal.SIGTERM),
        pytest.param("tokenising", signal.SIGHUP, marks=pytest.mark.full),
        pytest.param("before the first trial", signal.SIGTERM, marks=pytest.mark.full),
        pytest.param("ray starts", signal.SIGHUP, marks=pytest.mark.full),
        pytest.param("trials", signal.SIGHUP, marks=pytest.mark.full),
    ],
)
def test_signals__the_sweep_ends_resumable(spec, tmp_path, moment, number):
    run = tmp_path / "run"
    with (tmp_path / "out.txt").open("wb") as out:
        process = sweepft("run", spec, "--out", run, stdout=out, stderr=subprocess.STDOUT)
    try:
        check_ended(process, signal_at(moment, number, process, run), run)
        if moment == "trials":
            process = sweepft("resume", run, stdout=subprocess.DEVNULL)
            assert process.wait(300) == 0
    finally:
        process.kill()
    assert b"Traceback" not in (tmp_path / "out.txt").read_bytes()


@pytest.mark.full
@pytest.mark.parametrize(
    ("function", "number"), [("write_report", signal.SIGTERM), ("write_best", signal.SIGINT)]
)
def test_signals__the_report_is_written(spec, tmp_path, function, number):
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-c",
        AT_THE_END,
        function,
        str(int(number)),
        "run",
        str(spec),
        "--out",
        str(run),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        check_ended(process, [], run)
        assert (run / "best").is_dir()
    finally:
        process.kill()


@pytest.mark.full
def test_signals__the_whole_process_group_is_ended(spec, tmp_path):
    """As by timeout(1), which signals the group: Ray's processes are in it."""
    run = tmp_path / "run"
    process = sweepft(
        "run", spec, "--out", run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    try:
        until(lambda: rows_of(run, "steps"), process)
        children = below(process)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(240) == 130
        assert gone(children) == []
        assert status_of(run)["resume"]
    finally:
        process.kill()


@pytest.mark.full
def test_signals__a_closed_terminal_ends_the_sweep_resumable(spec, tmp_path):
    run = tmp_path / "run"
    terminal = OnTerminal("run", spec, "--out", run)
    try:
        until(lambda: rows_of(run, "steps"), terminal.process)
        children = below(terminal.process)
        terminal.close()
        check_ended(terminal.process, children, run)
        assert read_ledger(run)[-1]["reason"] == "the terminal was closed"
    finally:
        terminal.process.kill()
