"""The command ``python -m benchmarks.simulation``: a sweep without training."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweepft.cli.options import OUT, SET, SPEC

if TYPE_CHECKING:
    from benchmarks.simulation import Mark, Simulated, SystemRow
    from rich.table import Table


@click.command()
@SPEC
@SET
@OUT
@click.option("--trials", type=click.IntRange(1), default=10_000, show_default=True, help="Number of trials.")
@click.option("--slots", type=click.IntRange(1), default=512, show_default=True, help="Concurrent trials.")
@click.option(
    "--curves",
    type=click.Path(exists=True, path_type=Path),
    help="Recorded runs to play back, as `sweepft replay` reads them; by default the curves are synthetic.",
)
@click.option(
    "--seed", type=click.IntRange(0), help="Seed of proposals and synthetic curves.  [default: search.seed]"
)
@click.option(
    "--compare",
    "seeds",
    type=click.IntRange(1),
    metavar="SEEDS",
    help="Compare search strategies instead, SEEDS sweeps each, over the GPU-hours of --trials full trials.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to this file.",
)
def simulate(
    spec: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    trials: int,
    slots: int,
    curves: Path | None,
    seed: int | None,
    seeds: int | None,
    json_file: Path | None,
) -> None:
    """Run the sweep of SPEC without training, on a virtual clock, with real search, decisions, ledger and report.

    Model and data are not read. The run folder and its report are marked as simulated.
    """
    from benchmarks.simulation import compare_systems, make_courses
    from benchmarks.simulation import simulate as run
    from rich.console import Console

    from sweepft.spec import load

    given = [*overrides, f"resources.concurrent_trials={slots}", f"search.trials={trials}"]
    loaded = load(spec, [*given, *([f"search.seed={seed}"] if seed is not None else [])], check_files=False)
    seed = loaded.search.seed
    console = Console(highlight=False)
    if seeds is not None:
        rows = compare_systems(
            loaded, lambda s: make_courses(loaded, curves, seed + s), full_trials=trials, seeds=seeds
        )
        console.print(_systems(rows))
        _write(json_file, [row.to_dict() for row in rows])
        return
    out = out or Path("runs") / f"{loaded.name}-simulated-{dt.datetime.now().strftime('%Y%m%d-%H%M%S')}"
    marks = [n for n in (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000) if n < trials]
    done = run(
        loaded, out, make_courses(loaded, curves, seed), marks=marks,
        on_mark=lambda mark: console.print(f"{mark.trials} trials, {mark.driver_seconds:.0f} s of CPU", markup=False),
    )  # fmt: skip
    console.print(_growth(done))
    for path in done.reports.values():
        console.print(str(path), markup=False, soft_wrap=True)
    _write(json_file, [mark.to_dict() for mark in done.marks])


def _write(path: Path | None, figures: object) -> None:
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _growth(done: Simulated) -> Table:
    from rich.table import Table

    table = Table(
        title=f"the driver's CPU ms a trial, between marks ({done.virtual_seconds / 3600:.1f} virtual hours)"
    )
    parts = list(done.marks[-1].seconds)
    for name in ("trials", *parts, "all", "MiB of memory", "MiB of ledger"):
        table.add_column(name, justify="right")
    before: Mark | None = None
    for mark in done.marks:
        trials = mark.trials - (before.trials if before is not None else 0)
        if trials > 0:
            spent = [
                mark.seconds[p] - (before.seconds.get(p, 0.0) if before is not None else 0.0) for p in parts
            ]
            each = [1000 * seconds / trials for seconds in (*spent, sum(spent))]
            rest = (f"{mark.rss_mib:.0f}", f"{mark.ledger_mib:.0f}")
            table.add_row(str(mark.trials), *(f"{ms:.1f}" for ms in each), *rest)
        before = mark
    table.caption = (
        f"{done.driver_ms:.1f} ms per trial in total, including {done.report_seconds:.1f} s for the report; "
        "without Ray's own loop"
    )
    return table


def _systems(rows: list[SystemRow]) -> Table:
    from rich.table import Table

    table = Table(
        title="true loss above the best known configuration (nats), by share of the GPU-hours (95% interval)"
    )
    table.add_column("system", no_wrap=True)
    for share in rows[0].regret:
        table.add_column(f"{share:.0%}", justify="right")
    for name in ("trials", "completed"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [f"{mean:.4f} [{low:.4f}, {high:.4f}]" for mean, low, high in row.regret.values()]
        table.add_row(row.system, *cells, f"{row.trials:.0f}", f"{row.completed:.0f}")
    return table


if __name__ == "__main__":
    simulate()
