"""Setting a rank up: our own build tools first, and no waiting for a build that was killed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sweepft.engine.collective import own_tools_first, remove_stale_lock


def test_a_lock_is_removed_only_when_it_is_old(tmp_path):
    assert not remove_stale_lock(tmp_path)
    lock = tmp_path / "lock"
    lock.touch()
    made = lock.stat().st_mtime
    assert not remove_stale_lock(tmp_path, now=made + 599)
    assert lock.exists()
    assert remove_stale_lock(tmp_path, now=made + 601)
    assert not lock.exists()


def test_this_interpreters_tools_come_first_and_once(monkeypatch):
    own = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", own, "/bin"]))
    own_tools_first()
    own_tools_first()
    assert os.environ["PATH"].split(os.pathsep) == [own, "/usr/bin", "/bin"]
