"""The state of a run's mirror, kept in the run folder. Does not import pyarrow."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sweepft.bounded_json import read_json_file
from sweepft.files import atomic_write, inside
from sweepft.ledger.rows import is_time

_FILE: Final = "mirror/state.json"


@dataclass(frozen=True)
class MirrorStatus:
    """The state of a mirror.

    Attributes:
        uri: Its address.
        process: Id of the copying process.
        time: When the mirror was last up to date, Unix seconds; 0 before the first time.
        failure: Why it is not up to date now, or None.
    """

    uri: str
    process: int
    time: float = 0.0
    failure: str | None = None


def read_status(run_dir: Path) -> MirrorStatus | None:
    """The state of a run's mirror, or None without one."""
    try:
        found = MirrorStatus(**read_json_file(inside(run_dir, _FILE), most=1 << 20, finite=True))
    except (OSError, ValueError, TypeError):
        return None
    sound = isinstance(found.uri, str) and isinstance(found.failure, str | None)
    return found if sound and type(found.process) is int and is_time(found.time) else None


def write_status(run_dir: Path, status: MirrorStatus) -> None:
    """Write the state. On a full disk it is not written: the mirror itself matters more."""
    with contextlib.suppress(OSError):
        atomic_write(inside(run_dir, _FILE), json.dumps(asdict(status), indent=1), sync=False)
