"""How the mirror of a run stands, noted in the run folder for whoever asks. Loads no pyarrow."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_FILE: Final = "mirror/state.json"


@dataclass(frozen=True)
class MirrorStatus:
    """How a mirror stands.

    Attributes:
        uri: Its address.
        process: Who copies.
        time: When the copy was last like the run folder, unix seconds; 0 before the first time.
        failure: Why it is not now, or None.
    """

    uri: str
    process: int
    time: float = 0.0
    failure: str | None = None


def read_status(run_dir: Path) -> MirrorStatus | None:
    """How the mirror of a run stands, or None where it has none."""
    try:
        return MirrorStatus(**json.loads((run_dir / _FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_status(run_dir: Path, note: MirrorStatus) -> None:
    """Note it; where the disk is full, not: the mirror itself matters more."""
    file = run_dir / _FILE
    new = file.with_name(f".{file.name}.new")
    with contextlib.suppress(OSError):
        new.write_text(json.dumps(asdict(note), indent=1))
        os.replace(new, file)
