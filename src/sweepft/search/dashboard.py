"""optuna-dashboard on a run's study: a second look at the search, in the browser, on this machine only."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweepft.errors import SweepftError
from sweepft.search.study import STUDY_FILE

__all__ = ["serve_dashboard"]

_LOOPBACK: Final = "127.0.0.1"


def serve_dashboard(run_dir: Path, port: int) -> None:
    """Serve the dashboard on loopback until it is interrupted. A running sweep shows as it goes on.

    Args:
        run_dir: The run folder.
        port: To listen on.
    Raises:
        SweepftError: If the run has no study, optuna-dashboard is not installed, or the port is taken.
    """
    study = run_dir / STUDY_FILE
    if not study.is_file():
        raise SweepftError(
            f"{study}: is not there\n  name a run folder; the study is not part of a report's files"
        )
    if find_spec("optuna_dashboard") is None:
        raise SweepftError("optuna-dashboard is not installed\n  pip install 'sweepft[dashboard]'")
    from optuna_dashboard import run_server

    try:
        run_server(JournalStorage(JournalFileBackend(str(study))), host=_LOOPBACK, port=port)
    except OSError as error:
        raise SweepftError(f"--port {port}: {error.strerror or error}\n  name another port") from error
