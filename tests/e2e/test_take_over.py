"""A host dies and another one resumes its run on shared storage, with real drivers under several host names.

A machine here is a network namespace with a host name, a process table and a boot id of its own, so that no process
sees another machine's processes, as between hosts.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.namespaces import Machine, Network, can_make_namespaces
from support.sweeps import write_spec
from sweepft.ledger import SweepState, read_ledger
from sweepft.ledger.lease import read_lease

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

SWEEPFT = """
import sys
from sweepft.ledger.lease import SECONDS
SECONDS.unchanged = float(sys.argv.pop(1))
from sweepft.cli.process import main
main()
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Machine]]:
    if not can_make_namespaces():
        pytest.skip("needs root, ip and unshare for network namespaces")
    with Network() as network:
        yield [network.add(), network.add()]


def on(machine: Machine, folder: Path, *words: str | Path, lease: float = 6) -> subprocess.Popen:
    """Run sweepft on a machine; the end of ``unshare`` is the end of all its processes."""
    boot = folder / f"boot-{machine.name}"
    if not boot.exists():
        boot.write_text(f"{uuid.uuid4()}\n")
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-c"]
    script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
    command = [*machine.prefix, *apart, script, boot, sys.executable, "-c", SWEEPFT, str(lease), *words]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-4000:]
    return output


END = ("--set", "search.trials=3")


def long_sweep(folder: Path, model_dir: Path, data_file: Path) -> Path:
    """A sweep that runs until it is ended with `END` on a resume."""
    one, many = {"concurrent_trials": 1}, {"trials": 500}
    return write_spec(folder, model_dir, data_file, resources=one, search=many, early_stop={"rule": "none"})


def until_evaluated(run: Path, process: subprocess.Popen) -> None:
    ledger = run / "ledger" / "ledger.jsonl"
    while not (ledger.exists() and b'"kind":"eval"' in ledger.read_bytes()):
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.05)


@pytest.mark.parametrize("take_over", [False, True])
def test_resume__on_another_host_after_kill(machines, tiny_model_dir, tiny_data_file, tmp_path, take_over):
    spec = long_sweep(tmp_path, tiny_model_dir, tiny_data_file)
    run, (first, second) = tmp_path / "run", machines
    driver = on(first, tmp_path, "run", spec, "--out", run)
    until_evaluated(run, driver)

    refused = finish(on(second, tmp_path, "resume", run), code=1)
    assert "is being written by process" in refused
    assert "on machine1" in refused
    assert driver.poll() is None, "the driver was left alone"
    assert "running" in finish(on(second, tmp_path, "status", run)).splitlines()[0]

    driver.kill()
    driver.communicate()
    if not take_over:
        while "running" in (line := finish(on(second, tmp_path, "status", run)).splitlines()[0]):
            pass  # for as long as the last heartbeat is fresh
        assert "crashed" in line
    flag, wait = (["--take-over"], 3600) if take_over else ([], 6)
    output = finish(on(second, tmp_path, "resume", run, *END, *flag, lease=wait))
    assert ("waiting until" in output) is not take_over
    assert "taking the run over from process" in output
    view = SweepState.load(run)
    assert view.status == "finished"
    assert len(view.resumes) == 1


def test_driver__stops_when_its_run_was_taken_over(machines, tiny_model_dir, tiny_data_file, tmp_path):
    """The first host sleeps, the second one takes over, the first one wakes up."""
    spec = long_sweep(tmp_path, tiny_model_dir, tiny_data_file)
    run, (first, second) = tmp_path / "run", machines
    former = on(first, tmp_path, "run", spec, "--out", run)
    until_evaluated(run, former)
    signal_all(former, signal.SIGSTOP)
    suspended_at = len(read_ledger(run))
    new = on(second, tmp_path, "resume", run, *END, "--take-over")
    while (
        read_lease(run / "ledger" / "lease").owner.host != "machine2" or len(SweepState.load(run).resumes) < 1
    ):
        assert new.poll() is None, new.communicate()[0][-4000:]
        time.sleep(0.1)
    signal_all(former, signal.SIGCONT)
    output = finish(former, code=1)
    assert "taken over by process" in output
    assert "Traceback" not in output
    finish(new)
    rows = read_ledger(run)
    assert rows[suspended_at]["kind"] == "sweep", "nothing was written after the other host began"
    assert SweepState.load(run).status == "finished"


def signal_all(driver: subprocess.Popen, number: signal.Signals) -> None:
    """Send a signal to all processes of a machine, which hang below ``unshare``."""
    for process in psutil.Process(driver.pid).children(recursive=True):
        process.send_signal(number)
