"""The progress and the status of a sweep, drawn from its state alone: by its driver, or from another process.

Progress is a live table on a terminal and plain lines in a pipe.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweepft.ledger import LedgerTail, Row, SweepState, TrialState, WriterWatch, ledger_path, winner
from sweepft.ledger.rows import GPU_GIVEN_UP, GPU_USED_AGAIN, NODE_KEPT_OUT, NODE_USED_AGAIN
from sweepft.mirror.status import read_status
from sweepft.output import make_console
from sweepft.spec import format_value
from sweepft.visible import visible


def _value(objective: float | None, stderr: float | None = None) -> str:
    """A value of the objective, with its standard error where it is noisy: ``0.62±0.034``."""
    text = "none" if objective is None else f"{objective:.4f}"
    return text if stderr is None else f"{text}±{stderr:.2g}"


def short_params(params: dict[str, Any]) -> str:
    """Params on one line: ``batch_size=32 learning_rate=0.001``."""
    return " ".join(f"{key.rsplit('.', 1)[-1]}={format_value(value)}" for key, value in params.items())


def _measured(row: Row, view: SweepState) -> str:
    """What an evaluation has measured: the objective, and further tasks."""
    task = row.get("task") or {}
    value = "not measured" if row["objective"] is None else _value(row["objective"], task.get("stderr"))
    parts = [f"{view.objective.short}={value}", *([f"items={task['items']}"] if task else [])]
    for name, one in (row.get("tasks") or {}).items():
        if name != view.objective.task and one["value"] is not None:
            parts.append(f"{name}={_value(one['value'], one.get('stderr'))}")
    return " ".join(parts)


def describe(row: Row, view: SweepState) -> str | None:
    """One plain line for a ledger row, or None for a row that is not shown."""
    kind, trial = row["kind"], view.trials.get(row.get("trial_id") or "")
    if kind == "command":
        arguments = row["arguments"].get("params")
        arguments = arguments if isinstance(arguments, dict) and arguments else row["arguments"]
        what = " ".join(p for p in (row["command"], row["trial_id"], short_params(arguments)) if p)
        word = "accepted" if row["accepted"] else "refused"
        return f"command {word}: {what} who={row['who']}: {row['answer']}"
    if kind == "finalists":
        chosen, parts = (" ".join(e[key] for e in row[name]) for name, key in _FINALISTS)
        return f"finalists: {chosen}; scored on {parts}"
    if kind == "enough":
        expected = "unknown" if row["expected"] is None else f"{row['expected']:.2g}"
        end = "; the search ends" if row["enough"] else ""
        return f"expected gain of a further trial: {expected} after {row['completed']} completed ones{end}"
    if kind == "score":
        found = " ".join(f"{metric}={format_value(m['value'])}" for metric, m in row["metrics"].items())
        return f"scored: trial={row['trial_id'] or 'base model'} {row['name']} {found or row['reason']}"
    if kind == "fault" and row["action"] in _OF_MACHINES:
        return f"{row['action']}: {first_line(row['message'])}"
    if trial is None:
        return f"sweep {row['status']}: {row['reason'] or ''}".rstrip(": ") if kind == "finish" else None
    if kind == "trial":
        return f"trial proposed: trial={trial.trial_id} origin={trial.origin} {short_params(trial.params)}"
    if kind == "eval":
        return (
            f"trial at {row['rung'] or 0.0:.0%}: trial={trial.trial_id} step={row['step']} "
            f"samples={int(row['samples_seen'])} {_measured(row, view)}"
        )
    if kind == "decision" and row["action"] != "continue":
        return (
            f"trial {row['action']}: trial={trial.trial_id} samples={int(row['samples_seen'])} rule={row['rule']}"
            f" reason={row['reason']!r}"
        )
    if kind == "start" and trial.decisions and trial.decisions[-1]["action"] == "pause":
        return f"trial resumed: trial={trial.trial_id} samples={trial.samples_seen} slot={row['slot']}"
    if kind == "fault":
        where = f" node={row['node']!r}" if row.get("node") else ""
        where += f" gpu={row['gpu']}" if row.get("gpu") else ""
        line = first_line(row["message"])
        return f"fault: trial={trial.trial_id} {row['error']}: {line} ({row['action']}){where}"
    if kind == "end":
        known = row["objective"] is not None
        value = f" {view.objective.short}={_value(row['objective'])}" if known else ""
        best = winner(view)
        so_far = f" best={best.trial_id} ({_value(best.objective)})" if best is not None else ""
        return f"trial {row['status']}: trial={trial.trial_id} samples={row['samples_seen']}{value}{so_far}"
    return None


def first_line(text: str) -> str:
    """The first line of a text; nothing of an empty one."""
    return next(iter(text.splitlines()), "")


_OF_MACHINES = (NODE_KEPT_OUT, NODE_USED_AGAIN, GPU_GIVEN_UP, GPU_USED_AGAIN)
_FINALISTS = (("chosen", "trial_id"), ("items", "name"))


class Progress:
    """Shows a sweep while it runs.

    Args:
        view: Kept up to date by the event log, or by the reader of the ledger.
        slots: Concurrent trials.
        console: Where to draw.
    """

    def __init__(self, view: SweepState, slots: int, console: Console) -> None:
        self._view = view
        self._slots = slots
        self._console = console
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def on_row(self, row: Row) -> None:
        """Take one ledger row, as a listener of the event log."""
        if self._live is None:
            line = describe(row, self._view)
            if line is not None:
                self._console.file.write(f"{visible(line)}\n")  # rich would take longer than the row
                self._console.file.flush()

    def __rich__(self) -> RenderableType:
        return Group(self._headline(), self._best(), self._running(), self._recent())

    def _headline(self) -> Text:
        counts = Counter(t.status for t in self._view.trials.values() if t.replicate_of is None)
        done = sum(n for status, n in counts.items() if status not in ("running", "interrupted", "paused"))
        planned = self._view.planned_trials
        total = "?" if planned is None else str(planned)
        text = Text.assemble((self._view.name, "bold"), f"  {done} of {total} trials done")
        for status in ("completed", "stopped", "paused", "diverged", "failed"):
            if counts[status]:
                text.append(f"  {counts[status]} {status}", style=_STYLES[status])
        saved = _saved_share(list(self._view.trials.values()))
        if saved > 0:
            text.append(f"  {saved:.0%} of the compute saved so far", style="green")
        if self._view.found_enough is not None:
            text.append("  enough found", style="cyan")
        if self._view.finalists is not None:
            replicates = sum(t.replicate_of is not None for t in self._view.trials.values())
            text.append(
                f"  final evaluation: {len(self._view.scores)} scores, {replicates} replicates", style="cyan"
            )
        if self._view.paused:
            text.append("  paused", style="cyan")
        for node in self._view.nodes_kept_out:
            text.append(f"  kept out: {visible(node)}", style="red")
        for node, gpu in self._view.gpus_given_up:
            text.append(f"  given up: {visible(node)}, GPU {visible(gpu)}", style="red")
        began = self._view.sessions[-1][0] if self._view.sessions else time.time()
        text.append(f"  {_duration(max(0.0, time.time() - began))} elapsed")
        eta = self._eta(done, planned)
        if eta is not None:
            text.append(f"  about {_duration(eta)} to go")
        return text

    def _best(self) -> Text:
        best = winner(self._view)
        if best is None:
            return Text("no trial has reached the full budget yet", style="dim")
        return Text.assemble(
            "best so far: ",
            (best.trial_id, "bold"),
            f"  {self._view.objective.short} {self._of(best)}  {short_params(best.params)}",
            (_beyond(self._view.violation(best)), "yellow"),
        )

    def _running(self) -> Table:
        table = Table(box=None, pad_edge=False, expand=True)
        table.add_column("running", no_wrap=True)
        table.add_column("budget", width=22)
        table.add_column("loss", justify="right")
        table.add_column(self._view.objective.short, justify="right")
        table.add_column("steps/s", justify="right")
        table.add_column("params", overflow="ellipsis", no_wrap=True, ratio=1)
        for trial in self._view.with_status("running"):
            history = trial.history
            loss = f"{history['loss'][-1]:.4f}" if len(history["loss"]) else "starting"
            seconds = float(history["seconds"][-20:].mean()) if len(history["seconds"]) else math.nan
            counted = trial.counted or {}
            value = counted.get("objective")
            table.add_row(
                Text(trial.trial_id),
                ProgressBar(total=1.0, completed=trial.progress, width=20),
                loss,
                "" if value is None else _value(value, (counted.get("task") or {}).get("stderr")),
                "" if math.isnan(seconds) or seconds == 0 else f"{1 / seconds:.2f}",
                Text(short_params(trial.params)),
            )
        return table

    def _recent(self) -> Text:
        ended = sorted(
            (t for t in self._view.trials.values() if t.ended is not None), key=lambda t: t.ended or 0.0
        )
        text = Text()
        for trial in ended[-4:]:
            value = (
                f"{self._view.objective.short} {self._of(trial)}"
                if trial.objective is not None
                else (trial.reason or "")
            )
            text.append(f"{trial.trial_id} ")
            text.append(trial.status, style=_STYLES.get(trial.status, ""))
            text.append(f" at {trial.progress:.0%}: {value}\n")
        return text

    @staticmethod
    def _of(trial: TrialState) -> str:
        """A completed trial's objective with its noise: ``0.62±0.034, 200 items``."""
        task = (trial.counted or {}).get("task") or {}
        return _value(trial.objective, task.get("stderr")) + (f", {task['items']} items" if task else "")

    def _eta(self, done: int, planned: int | None) -> float | None:
        if planned is None or done < 2:
            return None
        spent = sum(sum(t.costs.values()) for t in self._view.trials.values() if not t.open)
        running = sum(sum(t.costs.values()) for t in self._view.with_status("running"))
        return max(0.0, spent / done * (planned - done) - running) / self._slots


_STYLES = {
    "completed": "green",
    "stopped": "yellow",
    "paused": "cyan",
    "diverged": "magenta",
    "failed": "red",
    "interrupted": "dim",
}


def _saved_share(trials: list[TrialState]) -> float:
    """Share of the compute that stopped trials would still have used, at their own measured speed."""
    spent = saved = 0.0
    for trial in trials:
        cost = sum(trial.costs.values())
        spent += cost
        if trial.status in ("stopped", "diverged") and trial.progress > 0:
            saved += cost * (1 - trial.progress) / trial.progress
    return saved / (spent + saved) if spent + saved > 0 else 0.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


def status_of(run_dir: Path) -> dict[str, Any]:
    """The state of a run as plain data: ``name, status, trials (by status), running, best, writer, mirror, resume``.

    Raises:
        LedgerError: If there is no readable ledger.
    """
    view = SweepState.load(run_dir)
    best, note = winner(view), read_status(run_dir)
    return {
        "run": str(run_dir),
        "name": view.name,
        "status": view.status,
        "trials": dict(Counter(t.status for t in view.trials.values())),
        "planned_trials": view.planned_trials,
        "running": [
            {"trial_id": t.trial_id, "reach": round(t.progress, 4), "step": t.step, "params": t.params}
            for t in view.with_status("running")
        ],
        "best": best
        and {
            "trial_id": best.trial_id,
            "metric": view.objective.short,
            "objective": best.objective,
            "params": best.params,
            "violation": _finite(view.violation(best)) if view.bounds.limits else None,
        },
        "writer": view.writer and {"host": view.writer.host, "pid": view.writer.pid},
        "nodes_kept_out": view.nodes_kept_out,
        "gpus_given_up": [
            {"node": node, "gpu": gpu, "message": why} for (node, gpu), why in view.gpus_given_up.items()
        ],
        "mirror": note and {"uri": note.uri, "time": note.time, "failure": note.failure},
        "resume": view.status in ("crashed", "interrupted", "limit")
        or (view.status == "paused" and view.writer is None)
        or bool(view.with_status("interrupted")),
    }


def describe_run(found: dict[str, Any]) -> str:
    """The same as text."""
    counts = ", ".join(f"{n} {status}" for status, n in sorted(found["trials"].items())) or "none yet"
    planned = f" of {found['planned_trials']}" if found["planned_trials"] else ""
    lines = [
        f"{found['name'] or found['run']}: {found['status']}",
        f"trials: {sum(found['trials'].values())}{planned} ({counts})",
    ]
    if found["writer"]:
        lines.append(f"driver: pid {found['writer']['pid']} on {found['writer']['host']}")
    lines += [
        f"running: {t['trial_id']} at {t['reach']:.0%}  {short_params(t['params'])}" for t in found["running"]
    ]
    if found["best"]:
        best = found["best"]
        lines.append(
            f"best so far: {best['trial_id']}  {visible(best['metric'])} {_value(best['objective'])}  "
            f"{short_params(best['params'])}{_beyond(best['violation'] or 0.0)}"
        )
    for message in found["nodes_kept_out"].values():
        lines.append(f"node kept out: {visible(first_line(message))}")
    for given_up in found["gpus_given_up"]:
        lines.append(f"GPU given up: {visible(first_line(given_up['message']))}")
    if found["mirror"]:
        lines.append(_mirror(found["mirror"]))
    if found["status"] == "paused" and not found["resume"]:
        lines.append(f"to continue: sweepft continue {found['run']}")
    if found["status"] == "not started":
        lines.append(f"to start: sweepft run {Path(found['run'], 'spec.yaml')} --out {found['run']}")
    if found["resume"]:
        lines.append(f"to resume: sweepft resume {found['run']}")
    return "\n".join(lines)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _beyond(violation: float) -> str:
    """What is said of the best trial where no one meets the bounds of ``search.subject_to``."""
    return f"  (none meets the bounds; nearest, {violation:.4g} beyond)" if violation > 0 else ""


def _mirror(found: dict[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["time"]))
    state = f"up to date at {when}" if found["time"] else "nothing copied yet"
    behind = f", behind since: {first_line(found['failure'])}" if found["failure"] else ""
    return f"mirror: {found['uri']}, {state}{behind}"


_PAUSE = 0.5
"""Seconds between two reads of the ledger."""


def watch_run(run_dir: Path, console: Console | None = None) -> None:
    """Show a sweep until its driver is done or gone, then its status.

    Args:
        run_dir: The run folder.
        console: Where to draw; a table on a terminal, else a line for each event from now on.
    Raises:
        LedgerError: If there is no readable ledger.
    """
    console = console or make_console()
    tail, view, watched = LedgerTail(run_dir), SweepState(), WriterWatch(ledger_path(run_dir).parent)
    while rows := tail.read():
        for row in rows:
            view.apply(row)
    slots = int((view.spec.get("resources") or {}).get("concurrent_trials") or 1)
    progress = Progress(view, slots, console)
    with progress:
        while watched.writer() is not None or watched.in_doubt:
            time.sleep(_PAUSE)
            for row in tail.read():
                view.apply(row)
                progress.on_row(row)
            if view.finish is not None and view.status != "paused":
                break
    console.print(describe_run(status_of(run_dir)), highlight=False, markup=False, soft_wrap=True)
