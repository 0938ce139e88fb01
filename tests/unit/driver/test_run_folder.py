"""What counts as failing storage, and what becomes of a trial that meets it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sweepft.driver.run_folder import storage_problem
from sweepft.errors import is_storage_error
from sweepft.search.ray_searcher import INTERRUPTED, outcome_of


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EROFS, "Read-only file system"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("out of memory"), False),
    ],
)
def test_is_storage_error__by_errno_or_text(error: BaseException, is_one: bool) -> None:
    assert is_storage_error(error) == is_one


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({"failed": "rank 0 raised ValueError"}, "failed"),
        ({"failed": "rank 0 raised OSError", "storage": "No space left"}, "interrupted"),
        ({"samples_seen": 9, "budget_samples": 9, "objective": 2.0, "storage": "No space left"}, "completed"),
    ],
)
def test_outcome_of__full_disk_does_not_fail_the_trial(result: dict, status: str) -> None:
    assert outcome_of(result, None).status == status
    assert (outcome_of(result, None) is INTERRUPTED) == (status == "interrupted")


def test_storage_problem__probes_by_writing(tmp_path: Path) -> None:
    assert storage_problem(tmp_path) is None
    assert list(tmp_path.iterdir()) == [], "the probe is gone"
    problem = storage_problem(tmp_path / "gone")
    assert "No such file or directory" in str(problem)
    assert "Free space or make the folder writable" in str(problem)
