"""Folders of Hugging Face Trainer runs: the newest ``trainer_state.json`` of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sweepft.bounded_json import read_json_file
from sweepft.replay.sources.cells import cell
from sweepft.replay.sources.folders import run_name, unreadable
from sweepft.replay.sources.frame import Logs
from sweepft.replay.sources.hparams import as_config


def read_trainer_states(folder: Path, paths: Sequence[Path]) -> Logs:
    """The log of each run as one row per step; what a state has beside it (batch size, planned steps) is kept.

    Raises:
        ReplayError: A file is no Trainer state.
    """
    newest: dict[Path, tuple[int, dict[str, Any]]] = {}
    for path in paths:
        try:
            state = read_json_file(path)
            step, _ = int(state["global_step"]), list(state.get("log_history") or [])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise unreadable(path, "a Trainer state", error) from error
        run = path.parent.parent if path.parent.name.startswith("checkpoint-") else path.parent
        if run not in newest or step > newest[run][0]:
            newest[run] = (step, state)
    rows: list[dict[str, Any]] = []
    planned = {}
    searched = all(state.get("trial_params") for _, state in newest.values())
    for run, (_, state) in newest.items():
        name = run_name(run, folder)
        params = as_config(state.get("trial_params") or {})
        if state.get("train_batch_size") is not None:
            params.setdefault("config/batch_size", state["train_batch_size"])
        if isinstance(state.get("max_steps"), int) and state["max_steps"] > 0:
            planned[name] = float(state["max_steps"])
        merged: dict[float, dict[str, Any]] = {}
        at: Any = 0
        for entry in state.get("log_history") or []:
            if not isinstance(entry, dict):
                continue
            at = entry.get("step", at)  # what callbacks add may have no step of its own
            known = {k: cell(v) for k, v in entry.items() if v is not None}
            merged.setdefault(at, {"run_id": name, **params}).update(known | {"step": at})
        rows += merged.values()
    empty = sum(not state.get("log_history") for _, state in newest.values())
    # Of the hyperparameters a state has the batch size alone, but for those of a hyperparameter search.
    return Logs(
        pd.DataFrame(rows), "Hugging Face Trainer states", all_params=searched, planned=planned, empty=empty
    )
