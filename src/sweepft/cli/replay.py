"""``sweepft replay``: what would another rule have saved on the runs you already have?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table

from sweepft.early_stopping import BY_USER, RULES, read_prior_sweeps
from sweepft.errors import ReplayError
from sweepft.ledger import SweepState, ledger_path
from sweepft.replay.calibrate import calibrate
from sweepft.replay.curves import Study
from sweepft.replay.runner import OTHERS, Replay, ReplayRow, replay_all
from sweepft.replay.score import bootstrap
from sweepft.replay.sources import live_decisions, read_source


def _columns(_context: click.Context, _option: click.Parameter, pairs: Sequence[str]) -> dict[str, str]:
    """``ours=theirs`` pairs."""
    for pair in pairs:
        if "=" not in pair:
            raise click.BadParameter(f"{pair!r}: write OURS=THEIRS, e.g. metric=val_acc")
    return dict(pair.split("=", 1) for pair in pairs)


def _rungs(_context: click.Context, _option: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: write fractions of the budget, e.g. 0.05,0.1,0.25") from error


@click.command(name="replay")
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--rule", "rules", multiple=True, help="Rule to replay; repeat for several. Default: ours and ASHA."
)
@click.option("--list-rules", is_flag=True, help="Print the rules' names and exit.")
@click.option(
    "--slots", default=4, show_default=True, type=click.IntRange(1), help="Trials at the same time."
)
@click.option(
    "--orders", default=20, show_default=True, type=click.IntRange(1), help="Random orders a study."
)
@click.option(
    "--group", type=click.IntRange(2), help="Runs a sweep; larger studies are sampled. Default: all."
)
@click.option(
    "--windows", default="0.05,0.1,0.25,0.5", show_default=True, callback=_rungs, help="Of the budget."
)
@click.option(
    "--min-steps", default=0, show_default=True, type=click.IntRange(0), help="Before a trial is judged."
)
@click.option(
    "--min-peers", default=3, show_default=True, type=click.IntRange(1), help="Others needed to judge."
)
@click.option(
    "--good", default=0.2, show_default=True, type=click.FloatRange(0, 1, True, True), help="Good share."
)
@click.option("--false-stop", default=0.1, show_default=True, type=click.FloatRange(0, 1, True, True))
@click.option(
    "--audit", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Condemned ones run on."
)
@click.option("--covariate", "covariates", multiple=True, help="Config key for the calibrated rule; repeat.")
@click.option("--noise", default=0.0, show_default=True, type=click.FloatRange(0), help="Equal objectives.")
@click.option("--budget", type=float, help="A full run, in samples or steps. Default: a study's longest run.")
@click.option("--mode", type=click.Choice(["min", "max"]), help="Which way the objective is good.")
@click.option(
    "--column", "columns", multiple=True, callback=_columns, help="OURS=THEIRS for tables and tags."
)
@click.option(
    "--history", multiple=True, help="A calibration file, or the run folder of an earlier sweep; repeat."
)
@click.option("--park", is_flag=True, help="Ours: condemned trials may come back when all have begun.")
@click.option(
    "--calibrate", "calibrate_to", type=click.Path(path_type=Path), help="Write a calibration file."
)
@click.option("--json", "json_to", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option("--plot", "plot_to", type=click.Path(path_type=Path), help="Write the trade-off as HTML here.")
@click.option("--stops", "show_stops", is_flag=True, help="List which trials each rule stopped, and why.")
@click.option(
    "--live", is_flag=True, help="Run folders only: replay the recorded order with the recorded rule."
)
@click.option("--seed", default=0, show_default=True, type=int)
def replay_command(
    sources: tuple[Path, ...],
    rules: tuple[str, ...],
    list_rules: bool,
    columns: dict[str, str],
    mode: Literal["min", "max"] | None,
    budget: float | None,
    prior_sweeps: tuple[str, ...],
    calibrate_to: Path | None,
    json_to: Path | None,
    plot_to: Path | None,
    show_stops: bool,
    live: bool,
    group: int | None,
    **settings: Any,
) -> None:
    """Replay early-stop rules over recorded runs.

    SOURCES are run folders, .csv or .parquet tables, or folders of runs with trainer_state.json or TensorBoard
    event files.
    """
    console = Console(highlight=False)
    known = (*RULES, *OTHERS)
    if list_rules:
        click.echo("\n".join(known))
        return
    for rule in rules:
        if rule not in known:
            raise click.BadParameter(
                f"one of {', '.join(known)} is needed (got {rule!r})", param_hint="--rule"
            )
    if live:
        _replay_live(sources, console)
        return
    studies = [s for path in sources for s in read_source(path, columns=columns, mode=mode, budget=budget)]
    for study in studies:
        if study.left_out:
            console.print(f"{study.name}: {study.left_out} trials did not run to their end and are left out")
    earlier = read_prior_sweeps(
        prior_sweeps,
        top_fraction=settings["top_fraction"],
        max_false_stop_rate=settings["max_false_stop_rate"],
    )
    replay = Replay(group=group, prior_sweeps=earlier, **settings)
    if calibrate_to is not None:
        _calibrate(studies, replay, calibrate_to, console)
        if not rules:
            return
    rows = replay_all(studies, rules or ("calibrated", "median", "asha"), replay)
    _print(rows, console)
    if show_stops:
        _print_stops(rows, console)
    if json_to is not None:
        json_to.write_text(json.dumps([r.to_row() for r in rows], indent=1) + "\n")
        console.print(f"rows: {json_to}", soft_wrap=True)
    if plot_to is not None:
        from sweepft.replay.runner import write_plot

        write_plot(rows, plot_to)
        console.print(f"plot: {plot_to}", soft_wrap=True)


def _calibrate(studies: Sequence[Study], replay: Replay, path: Path, console: Console) -> None:
    found = calibrate(
        studies,
        max_false_stop_rate=replay.max_false_stop_rate,
        top_fraction=replay.top_fraction,
        rungs=replay.rungs,
        min_steps=replay.min_steps,
        slots=replay.slots,
        group=replay.group or 24,
        seed=replay.seed,
    )
    if found is None:
        needed = round(1 / replay.max_false_stop_rate) - 1
        raise ReplayError(
            f"--calibrate: {len(studies)} sweeps cannot bound false stops at {replay.max_false_stop_rate:g}: at least {needed}"
            " are needed\n  give more sources, or a larger --false-stop"
        )
    path.write_text(json.dumps(found.to_dict(), indent=1) + "\n")
    console.print(f"calibration: level {found.level:g} from {found.sweeps} sweeps: {path}", soft_wrap=True)


def _replay_live(sources: Sequence[Path], console: Console) -> None:
    """Compare the recorded verdicts with those the recorded rule gives on the recorded rows."""
    for path in sources:
        if not ledger_path(path).is_file():
            raise ReplayError(f"{path}: --live needs a run folder\n  leave it out for tables")
        state = SweepState.load(path)
        again = [(d.trial_id, d.step, d.action) for d in live_decisions(state)]
        recorded = [(d["trial_id"], d["step"], d["action"]) for d in state.decisions if d["rule"] != BY_USER]
        if recorded != again:
            first = next((i for i, (a, b) in enumerate(zip(recorded, again, strict=False)) if a != b), None)
            where = (
                f"verdict {first}"
                if first is not None
                else f"{len(recorded)} recorded, {len(again)} replayed"
            )
            raise ReplayError(
                f"{path}: the replay differs from the live sweep at {where}\n  was the rule changed?"
            )
        console.print(f"{path}: {len(recorded)} live verdicts, all the same in the replay", soft_wrap=True)


def _print(rows: Sequence[ReplayRow], console: Console) -> None:
    """A table a source; intervals, where there are several studies, for the two numbers that decide."""
    for source in dict.fromkeys(r.source for r in rows):
        here = [r for r in rows if r.source == source]
        studies = len({r.study for r in here})
        table = Table(title=f"{source}: {studies} studies, {here[0].orders} orders each")
        table.add_column("rule", no_wrap=True)
        for head in ("saved", "best kept", "in noise", "good lost", "regret", "time to best"):
            table.add_column(head, justify="right")
        for rule in dict.fromkeys(r.rule for r in here):
            part = [r for r in here if r.rule == rule]
            table.add_row(rule, *(_cell(part, field) for field in _SHOWN))
        console.print(table)


_SHOWN = (
    "saved",
    "best_kept",
    "best_kept_within_noise",
    "false_stop",
    "regret_scaled",
    "time_to_best",
)


def _cell(rows: Sequence[ReplayRow], field: str) -> str:
    values = [float(getattr(r.score, field)) for r in rows]
    mean = sum(values) / len(values)
    if len(values) == 1 or field not in ("saved", "best_kept"):
        return f"{mean:.2f}"
    low, high = bootstrap(values)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _print_stops(rows: Sequence[ReplayRow], console: Console) -> None:
    for row in rows:
        console.print(f"\n{row.study}, {row.rule}: {len(row.stops)} of {row.runs} stopped in the first order")
        for stop in row.stops:
            mark = " (a good one)" if stop.was_good else ""
            console.print(
                f"  {stop.run_id}{mark} at {100 * stop.spent:.0f}%: {stop.reason}; it ended at {stop.final:.4g}",
                soft_wrap=True,
            )
