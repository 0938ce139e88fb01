"""``sweepft replay``: what other early-stopping rules would have saved and lost on recorded runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from sweepft.cli.options import output_file, writing
from sweepft.errors import ReplayError
from sweepft.files import write_output
from sweepft.output import make_console, say

if TYPE_CHECKING:
    from sweepft.replay.curves import Mode, Study
    from sweepft.replay.runner import Replay, ReplayRow

_FRACTION = click.FloatRange(0, 1, min_open=True, max_open=True)


def _columns(_context: click.Context, _option: click.Parameter, pairs: Sequence[str]) -> dict[str, str]:
    """``ours=theirs`` pairs."""
    for pair in pairs:
        if "=" not in pair:
            raise click.BadParameter(f"{pair!r}: write OURS=THEIRS, e.g. metric=val_acc")
    return dict(pair.split("=", 1) for pair in pairs)


def _rungs(_context: click.Context, _option: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        rungs = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: write fractions of the budget, e.g. 0.05,0.1,0.25") from error
    if not all(0 < rung < 1 for rung in rungs):
        raise click.BadParameter(
            f"{text!r}: write fractions of the budget above 0 and below 1, e.g. 0.1 for 10%"
        )
    return rungs


def _budget(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"must be a number above 0 (got {value:g})")
    return value


def _mode(_context: click.Context, _option: click.Parameter, text: str | None) -> Mode | None:
    if text is None:
        return None
    from sweepft.replay.sources.names import read_mode

    try:
        return read_mode(text, where="--mode", key="mode")
    except ReplayError as error:
        raise click.BadParameter(f"must be min or max (got {text!r})") from error


def _known_rules() -> tuple[str, ...]:
    from sweepft.early_stopping import RULES
    from sweepft.replay.runner import OTHERS

    return (*RULES, *OTHERS)


def _list_rules(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        say("\n".join(_known_rules()))
        context.exit()


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--rule", "rules", multiple=True, help="Rule to replay; repeatable.  [default: calibrated, median, asha]"
)
@click.option(
    "--list-rules",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_rules,
    help="List the rules.",
)
@click.option("--slots", default=4, show_default=True, type=click.IntRange(1), help="Concurrent trials.")
@click.option(
    "--orders", default=20, show_default=True, type=click.IntRange(1), help="Random orders per study."
)
@click.option(
    "--group", type=click.IntRange(2), help="Runs per sweep, sampled from larger studies.  [default: all]"
)
@click.option(
    "--rungs",
    default="0.05,0.1,0.25,0.5",
    show_default=True,
    callback=_rungs,
    help="Fractions of the budget at which rules decide.",
)
@click.option(
    "--min-steps", default=0, show_default=True, type=click.IntRange(0), help="Steps before a rule decides."
)
@click.option(
    "--min-peers", default=3, show_default=True, type=click.IntRange(1), help="Trials to compare with."
)
@click.option(
    "--top-fraction", default=0.2, show_default=True, type=_FRACTION, help="Fraction of runs worth keeping."
)
@click.option(
    "--max-false-stop-rate",
    default=0.1,
    show_default=True,
    type=_FRACTION,
    help="Largest share of top runs the calibrated rule may stop.",
)
@click.option(
    "--audit",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of flagged runs completed.",
)
@click.option(
    "--covariate", "covariates", multiple=True, help="Parameter the calibrated rule may use; repeatable."
)
@click.option(
    "--noise", default=0.0, show_default=True, type=click.FloatRange(0), help="Difference treated as a tie."
)
@click.option(
    "--budget",
    type=float,
    callback=_budget,
    help="Full run, in samples or steps.  [default: the longest run]",
)
@click.option("--mode", callback=_mode, metavar="[min|max]", help="Direction of the objective.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    callback=_columns,
    help="OURS=THEIRS: name a column, tag or metric of the sources; repeatable.",
)
@click.option("--cut-runs", is_flag=True, help="Take runs that were cut short as if they had ended.")
@click.option(
    "--prior-sweep", "prior_sweeps", multiple=True, help="Calibration file or run folder; repeatable."
)
@click.option("--pause", is_flag=True, help="Pause flagged trials instead of stopping them.")
@click.option(
    "--calibrate",
    "calibrate_to",
    type=click.Path(path_type=Path),
    callback=output_file,
    help="Write a calibration file.",
)
@click.option(
    "--json",
    "json_to",
    type=click.Path(path_type=Path),
    callback=output_file,
    help="Write the rows as JSON; - is standard output.",
)
@click.option(
    "--plot",
    "plot_to",
    type=click.Path(path_type=Path),
    callback=output_file,
    help="Write the trade-off as an HTML page.",
)
@click.option("--stops", "show_stops", is_flag=True, help="List the stopped runs with reasons.")
@click.option("--live", is_flag=True, help="Replay run folders with their own rule and order, and compare.")
@click.option("--seed", default=0, show_default=True, type=int, help="Of the random orders.")
def replay(
    sources: tuple[Path, ...],
    rules: tuple[str, ...],
    columns: dict[str, str],
    mode: Mode | None,
    budget: float | None,
    cut_runs: bool,
    prior_sweeps: tuple[str, ...],
    calibrate_to: Path | None,
    json_to: Path | None,
    plot_to: Path | None,
    show_stops: bool,
    live: bool,
    group: int | None,
    **settings: Any,
) -> None:
    """Replay early-stopping rules on recorded runs.

    SOURCES are run folders, tables (.csv, .tsv, .jsonl, .parquet), charts exported from W&B, MLflow's mlruns or
    mlflow.db, or folders of Ray Tune results, Trainer states, Lightning CSV logs or TensorBoard event files.
    """
    from sweepft.early_stopping import read_prior_sweeps
    from sweepft.replay.runner import Replay, replay_all, write_plot
    from sweepft.replay.sources import read_source

    alone = json_to == Path("-")
    console = make_console(stderr=alone)
    for rule in rules:
        if rule not in _known_rules():
            raise click.BadParameter(
                f"must be one of {', '.join(_known_rules())} (got {rule!r})", param_hint="--rule"
            )
    if live:
        _replay_live(sources, console)
        return
    studies: list[Study] = []
    for path in sources:
        found = read_source(path, columns=columns, mode=mode, budget=budget, cut_runs=cut_runs)
        console.print(found.describe(), soft_wrap=True, markup=False)
        studies += found
    known = read_prior_sweeps(
        prior_sweeps,
        top_fraction=settings["top_fraction"],
        max_false_stop_rate=settings["max_false_stop_rate"],
    )
    asked = Replay(group=group, prior_sweeps=known, **settings)
    if calibrate_to is not None:
        _calibrate(studies, asked, calibrate_to, console)
        if not rules:
            return
    rows = replay_all(_scored(studies, asked, console), rules or ("calibrated", "median", "asha"), asked)
    _print(rows, console)
    if show_stops:
        _print_stops(rows, console)
    if json_to is not None and alone:
        say(json.dumps([r.to_row() for r in rows], indent=1))
    elif json_to is not None:
        with writing(json_to):
            write_output(json_to, json.dumps([r.to_row() for r in rows], indent=1) + "\n")
        console.print(f"rows: {json_to}", soft_wrap=True)
    if plot_to is not None:
        with writing(plot_to):
            write_plot(rows, plot_to)
        console.print(f"plot: {plot_to}", soft_wrap=True)


def _scored(studies: Sequence[Study], asked: Replay, console: Console) -> list[Study]:
    """The studies with enough known results, with a word on each of the others.

    Raises:
        ReplayError: There is none.
    """
    from sweepft.replay.runner import too_few_ends

    refused = {study.name: why for study in studies if (why := too_few_ends(study, asked)) is not None}
    if len(refused) == len(studies):
        raise ReplayError(
            "\n".join(refused.values())
            + "\n  give sources whose runs were trained to their end, or take runs that"
            " were cut short as they are with --cut-runs",
            key="replay.too_few_ends",
        )
    for why in refused.values():
        console.print(f"not scored: {why}", soft_wrap=True, markup=False)
    kept = [study for study in studies if too_few_ends(study, asked) is None]
    for study in kept:
        if study.left_out > len(study.runs):
            console.print(
                f"{study.name}: most runs have no known result; the figures hold for the others, which an earlier rule"
                " or a limit let through",
                soft_wrap=True,
                markup=False,
            )
    return kept


def _calibrate(studies: Sequence[Study], asked: Replay, path: Path, console: Console) -> None:
    from sweepft.replay.calibrate import calibrate

    found = calibrate(
        studies,
        max_false_stop_rate=asked.max_false_stop_rate,
        top_fraction=asked.top_fraction,
        rungs=asked.rungs,
        min_steps=asked.min_steps,
        slots=asked.slots,
        group=asked.group or 24,
        seed=asked.seed,
    )
    if found is None:
        needed = round(1 / asked.max_false_stop_rate) - 1
        raise ReplayError(
            f"--calibrate: {len(studies)} sweeps are too few to bound the false-stop rate "
            f"at {asked.max_false_stop_rate:g}: "
            f"at least {needed} are needed\n  give more sources, or raise --max-false-stop-rate",
            key="replay.too_few_sweeps",
        )
    with writing(path):
        write_output(path, json.dumps(found.to_dict(), indent=1) + "\n")
    console.print(f"calibration: level {found.level:g} from {found.sweeps} sweeps: {path}", soft_wrap=True)


def _replay_live(sources: Sequence[Path], console: Console) -> None:
    """Compare the recorded decisions with those that the recorded rule makes on the recorded rows."""
    from sweepft.early_stopping import BY_USER, PATIENCE
    from sweepft.ledger import SweepState, ledger_path
    from sweepft.replay.sources import live_decisions

    for path in sources:
        if not ledger_path(path).is_file():
            raise ReplayError(
                f"{path}: --live needs a run folder\n  leave it out for tables", key="replay.no_run_folder"
            )
        state = SweepState.load(path)
        again = [(d.trial_id, d.step, d.action) for d in live_decisions(state)]
        others = (BY_USER, PATIENCE)  # which are no decisions of the rule
        recorded = [
            (d["trial_id"], d["step"], d["action"]) for d in state.decisions if d["rule"] not in others
        ]
        if recorded != again:
            first = next((i for i, (a, b) in enumerate(zip(recorded, again, strict=False)) if a != b), None)
            where = (
                f"decision {first}"
                if first is not None
                else f"{len(recorded)} recorded, {len(again)} replayed"
            )
            raise ReplayError(
                f"{path}: the replay differs from the live sweep at {where}\n  has the rule changed?",
                key="replay.differs",
            )
        console.print(f"{path}: {len(recorded)} live decisions, all equal in the replay", soft_wrap=True)


def _print(rows: Sequence[ReplayRow], console: Console) -> None:
    """One table per source; the two main figures have intervals where there are several studies."""
    from rich.table import Table

    for source in dict.fromkeys(r.source for r in rows):
        here = [r for r in rows if r.source == source]
        studies = len({r.study for r in here})
        table = Table(title=f"{source}: {studies} studies, {here[0].orders} orders each")
        table.add_column("rule", no_wrap=True)
        for head in ("saved", "best kept", "in noise", "top lost", "regret", "time to best"):
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
    from sweepft.replay.score import bootstrap

    low, high = bootstrap(values)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _print_stops(rows: Sequence[ReplayRow], console: Console) -> None:
    for row in rows:
        console.print(f"\n{row.study}, {row.rule}: {len(row.stops)} of {row.runs} stopped in the first order")
        for stop in row.stops:
            mark = " (a top run)" if stop.was_good else ""
            console.print(
                f"  {stop.run_id}{mark} at {100 * stop.spent:.0f}%: {stop.reason}; final {stop.final:.4g}",
                soft_wrap=True,
            )
