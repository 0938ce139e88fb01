"""DeepSpeed's communication op: our own build tools come first, and a killed build does not block the next one."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sweepft.training.comm_op import hold_op_lock, own_tools_first

BUILDER = """
import sys
from pathlib import Path
from sweepft.training.comm_op import hold_op_lock
folder = Path(sys.argv[1])
with hold_op_lock(folder):
    (folder / "lock").touch()  # as torch does
    print("building", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def builder(tmp_path):
    """A living process that builds in ``tmp_path``."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    yield process
    process.kill()
    process.communicate()


def test_hold_op_lock__waits_for_live_removes_dead(builder, tmp_path):
    with (tmp_path / "sweepft.lock").open("a+b") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert (tmp_path / "lock").exists(), "it stays"
    with hold_op_lock(tmp_path, patience=0.0):
        assert not (tmp_path / "lock").exists()


def test_hold_op_lock__failed_build_is_not_a_killed_one(tmp_path):
    with pytest.raises(ZeroDivisionError), hold_op_lock(tmp_path):
        raise ZeroDivisionError
    (tmp_path / "lock").touch()  # from here on, another program's
    with pytest.raises(RuntimeError, match="another program"), hold_op_lock(tmp_path, patience=0.0):
        pass


def test_hold_op_lock__reports_another_programs_lock(tmp_path):
    lock = tmp_path / "lock"
    lock.touch()
    words = r"lock: another program is building .* not finished in 0 s; end that program, or remove the file"
    with pytest.raises(RuntimeError, match=words), hold_op_lock(tmp_path, patience=0.2):
        pass
    assert lock.exists()
    threading.Timer(0.3, lock.unlink).start()
    with hold_op_lock(tmp_path):
        assert not lock.exists()


def test_hold_op_lock__removes_a_stale_lock(tmp_path):
    lock = tmp_path / "lock"
    lock.touch()
    os.utime(lock, (time.time() - 601,) * 2)
    with hold_op_lock(tmp_path, patience=0.0):
        assert not lock.exists()


@pytest.mark.full
def test_load_op__builds_after_a_killed_build(tmp_path):
    """With the real compiler: the second build ends, where torch's own lock would hold it for ever."""
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", "sweepft.training.comm_op"]
    first = subprocess.Popen(command, env=environment, start_new_session=True)
    while not list(tmp_path.glob("*/lock")):
        assert first.poll() is None
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert list(tmp_path.glob("*/lock"))
    assert subprocess.run(command, env=environment, check=False, timeout=500).returncode == 0
    assert list(tmp_path.glob("*/*.so"))
    assert not list(tmp_path.glob("*/lock"))


def test_own_tools_first__once(monkeypatch):
    own = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", own, "/bin"]))
    own_tools_first()
    own_tools_first()
    assert os.environ["PATH"].split(os.pathsep) == [own, "/usr/bin", "/bin"]
