"""A sweep whose output cannot be written goes on to its report."""

from __future__ import annotations

import os
import signal

import pytest

from support.faults import rows_of
from support.sweeps import write_spec
from support.terminals import OnTerminal, sweepft, until
from sweepft.ledger import SweepState, read_ledger

pytestmark = [pytest.mark.chaos, pytest.mark.full]

SEARCH = {
    "trials": 1,
    "start_with": [{"learning_rate": 3.0e-3, "batch_size": 8}],
    "space": {"batch_size": {"choice": [8]}, "learning_rate": {"log_uniform": [1.0e-5, 3.0e-2]}},
}


@pytest.fixture
def spec(tiny_model_dir, tiny_data_file, tmp_path):
    return write_spec(
        tmp_path, tiny_model_dir, tiny_data_file, search=SEARCH, resources={"concurrent_trials": 1}
    )  # fmt: skip


def check_finished(run):
    assert SweepState.load(run).status == "finished"
    assert [row["status"] for row in read_ledger(run) if row["kind"] == "end"] == ["completed"]
    assert (run / "report.html").is_file()
    assert (run / "best").is_dir()


def test_lost_output__closed_pipe_full_error_log_and_ascii(spec, tmp_path):
    run = tmp_path / "rün"
    reading, writing = os.pipe()
    with open("/dev/full", "wb") as full:
        process = sweepft(
            "run",
            spec,
            "--out",
            run,
            stdout=writing,
            stderr=full,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    assert process.wait(300) == 0
    check_finished(run)


def test_lost_output__closed_descriptors(spec, tmp_path):
    def close() -> None:
        for descriptor in range(3):
            os.close(descriptor)

    assert sweepft("run", spec, "--out", tmp_path / "run", preexec_fn=close).wait(300) == 0
    check_finished(tmp_path / "run")


def test_lost_output__terminal_closed_under_nohup(spec, tmp_path):
    run = tmp_path / "run"
    terminal = OnTerminal("run", spec, "--out", run, ignoring=[signal.SIGHUP])
    until(lambda: rows_of(run, "steps"), terminal.process)
    assert b"tiny" in terminal.shown
    terminal.close()
    assert terminal.process.wait(300) == 0
    check_finished(run)
