"""Give a command to a running sweep, from another process, and wait for the driver's answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from sweepft.driver.commands import command_problem
from sweepft.errors import CommandError, Problem
from sweepft.ledger import Command, LedgerTail, SweepState, current_writer, ledger_path, send_command
from sweepft.spec import SweepSpec, from_dict

PATIENCE: Final = 30.0
"""Seconds to wait for the answer. A driver looks several times a second, unless it is starting or ending."""


def give_command(
    run_dir: Path,
    name: str,
    trial_id: str | None = None,
    arguments: dict[str, Any] | None = None,
    *,
    patience: float = PATIENCE,
) -> str:
    """Give a command; returns the driver's answer, a sentence.

    Args:
        run_dir: The run folder.
        name: One of `sweepft.ledger.commands.COMMANDS`.
        trial_id: The trial it is about.
        arguments: See `Command`.
        patience: Seconds to wait for the answer.
    Raises:
        CommandError: If no driver runs the sweep, the command cannot be carried out, or no answer comes in time.
        LedgerError: If there is no readable ledger.
        StorageError: If the command cannot be written.
    """
    tail, view = LedgerTail(run_dir), SweepState()
    while rows := tail.read():
        for row in rows:
            view.apply(row)
    view.writer = current_writer(ledger_path(run_dir).parent)
    if view.writer is None:
        remedy = f"to resume: sweepft resume {run_dir}"
        raise CommandError(
            [Problem(str(run_dir), name, f"no driver runs this sweep ({view.status})", remedy)]
        )
    command = Command.new(name, trial_id, arguments)
    spec: SweepSpec = from_dict(view.spec, recorded=True)
    problem = command_problem(command, view, spec)
    if problem is not None:
        raise CommandError([_of(run_dir, problem)])
    send_command(run_dir, command)
    answer = _answer(tail, command, patience)
    if answer is None:
        rule = f"the driver has not answered in {patience:g} s"
        remedy = "the command is kept, and handled when the driver is ready; see sweepft status"
        raise CommandError([Problem(str(run_dir), name, rule, remedy)])
    if not answer["accepted"]:
        rule, _, remedy = str(answer["answer"]).partition("; ")
        raise CommandError([Problem(str(run_dir), f"{name} {trial_id or ''}".strip(), rule, remedy)])
    return str(answer["answer"])


def _answer(tail: LedgerTail, command: Command, patience: float) -> dict[str, Any] | None:
    deadline = time.monotonic() + patience
    while True:
        for row in tail.read():
            if row["kind"] == "command" and row["command_id"] == command.command_id:
                return row
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.1)


def _of(run_dir: Path, problem: Problem) -> Problem:
    key = problem.where if problem.key == "RUN" else f"{problem.where} {problem.key}"
    return Problem(
        str(run_dir), key, problem.rule, problem.remedy.replace("RUN", str(run_dir)), problem.value
    )
