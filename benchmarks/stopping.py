"""Compute saved and best run kept by every early-stopping rule, over public learning curves.

    python benchmarks/stopping.py [--orders 20] [--part held] [--out benchmarks/results/stopping]

Studies are split once. The rule's constants were chosen on the ``dev`` part: studies whose name has an even SHA-256; of
the few fine-tuning studies the one of June 2025; of TaskSet every other one. Results are reported on the ``held`` part.
Curves are read from ``../shared/curves`` and from every parquet table of ``benchmarks/data``; the latter are all in the
``held`` part, since no constant was chosen on them. Intervals are bootstraps over studies. `frontier.py` has the simple
rules and the dominance table; `calibration.py` tells whether the default rule keeps its bound.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from frontier import curve_table, dominance, replay_simple

from sweepft.replay.curves import Study
from sweepft.replay.runner import Replay, ReplayRow, makespan, replay_all
from sweepft.replay.score import Score, bootstrap, repeat_noise
from sweepft.replay.sources import read_source

CURVES = Path(__file__).resolve().parents[2] / "shared" / "curves"
OWN = Path(__file__).resolve().parent / "data"
SOURCES = ("peft_sft", "taskset", "algoperf")
GROUP = {"peft_sft": 20, "algoperf": 24, "taskset": 24}
PEFT_NOISE = 0.011  # accuracy: one standard error on the test set
RULES = [
    "random",
    "median",
    "recipe",
    "asha",
    "asha4",
    "calibrated",
    "ray-asha",
    "ray-asha4",
    "ray-hyperband",
    "ray-median",
    "optuna-median",
    "optuna-percentile",
    "optuna-hyperband",
    "oracle",
    "foresight",
    "foresight-good",
]
YARDSTICKS = ("oracle", "foresight", "foresight-good")
SETTINGS = (0.05, 0.15, 0.20, 0.30, 0.50)  # max_false_stop_rate besides the default 0.10


def is_dev(source: str, study: Study, number: int) -> bool:
    """Whether a study belongs to the dev part; see the module."""
    if source == "peft_sft":
        return study.name.endswith("25-06")
    if source == "taskset":
        return number % 2 == 0
    return int(hashlib.sha256(study.name.encode()).hexdigest(), 16) % 2 == 0


def load(curves: Path = CURVES, only: Sequence[str] = ()) -> dict[str, dict[str, list[Study]]]:
    """Source -> part -> studies of at least 7 (fine-tuning) or 12 runs; of all sources, or those named."""
    out: dict[str, dict[str, list[Study]]] = {}
    tables = [curves / f"{source}.parquet" for source in SOURCES] + sorted(OWN.glob("*.parquet"))
    for table in (t for t in tables if t.is_file() and t.stem in (only or (t.stem,))):
        source, known = table.stem, table.stem in SOURCES
        # Half-way, a phased run has not seen its second phase: early stopping does not apply to such sweeps.
        studies = sorted((s for s in read_source(table) if "phased" not in s.name), key=lambda s: s.name)
        parts: dict[str, list[Study]] = {"dev": [], "held": []}
        for number, study in enumerate(studies):
            if len(study.runs) >= (12 if known and source != "peft_sft" else 7):
                parts["dev" if known and is_dev(source, study, number) else "held"].append(study)
        out[source] = parts
    return out


def run(
    pool: Executor, source: str, studies: list[Study], rules: list[str], settings: Replay
) -> list[ReplayRow]:
    """Replay the rules, each study with its own noise."""
    noises = [_noise(s) for s in studies]
    jobs = [
        pool.submit(replay_all, [s], rules, replace(settings, noise=n, group=GROUP.get(source, 20)))
        for s, n in zip(studies, noises, strict=True)
    ]
    return [row for job in jobs for row in job.result()]


def run_simple(pool: Executor, source: str, studies: list[Study], settings: Replay) -> list[ReplayRow]:
    """Replay the simple rules over these studies."""
    group = GROUP.get(source, 20)
    jobs = [
        pool.submit(_simple, study, replace(settings, noise=_noise(study), group=group)) for study in studies
    ]
    return [replace(row, source=source) for job in jobs for row in job.result()]


def _simple(study: Study, settings: Replay) -> list[ReplayRow]:
    return replay_simple(study, settings, lambda s: makespan(s, settings.slots))


def _noise(study: Study) -> float:
    return PEFT_NOISE if "MetaMath" in study.name else repeat_noise(study)


def each_study(rows: list[ReplayRow]) -> str:
    """A table with one row per study and rule, for sources of at most four studies."""
    lines = ["| study | runs | rule | saved | best kept | within noise | false stops |", "| --- " * 7 + "|"]
    few = [
        s for s in dict.fromkeys(r.source for r in rows) if len({r.study for r in rows if r.source == s}) <= 4
    ]
    for row in sorted((r for r in rows if r.source in few), key=lambda r: (few.index(r.source), r.study)):
        s = row.score
        lines.append(
            f"| {row.study} | {row.runs} | {row.rule} | {s.saved:.2f} | {s.best_kept:.2f} |"
            f" {s.best_kept_within_noise:.2f} | {s.false_stop:.2f} |"
        )
    return "\n".join(lines)


def table(rows: list[ReplayRow]) -> str:
    """A table with one row per source and rule: means over studies with intervals."""
    lines = [
        "| source | rule | studies | saved | best kept | within noise | false stops | regret (scaled) | time to best |",
        "| --- | --- | ---: | --- | --- | --- | --- | --- | --- |",
    ]
    for source in dict.fromkeys(r.source for r in rows):
        for rule in dict.fromkeys(r.rule for r in rows if r.source == source):
            part = [r for r in rows if (r.source, r.rule) == (source, rule)]

            def cell(field: str, part: list[ReplayRow] = part) -> str:
                values = [getattr(r.score, field) for r in part]
                low, high = bootstrap(values)
                return f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]"

            fields = [
                "saved",
                "best_kept",
                "best_kept_within_noise",
                "false_stop",
                "regret_scaled",
                "time_to_best",
            ]
            lines.append(f"| {source} | {rule} | {len(part)} | " + " | ".join(map(cell, fields)) + " |")
    return "\n".join(lines)


def trade_off(rows: list[ReplayRow], simple: list[ReplayRow], curve: list[ReplayRow]) -> str:
    """sweepft's trade-off curve compared with every other rule, and each study separately."""
    ours = ["calibrated (0.05)", "calibrated", *(f"calibrated ({bound:.2f})" for bound in SETTINGS[1:])]
    own = [r for r in rows if r.rule == "calibrated"]
    peers = [r for r in RULES if r not in (*YARDSTICKS, "calibrated")]
    shown = [*own, *(r for r in rows if r.rule in ("ray-median", "ray-asha", *YARDSTICKS))]
    text = "\n\n## Dominance\n\nA rule beats another if, in the mean over studies, it saves at least as much and keeps"
    text += " the best run at least as often; `*`: in 95% of the bootstraps over five studies or more."
    text += "\n\nThe best run itself:\n\n"
    text += dominance([*rows, *curve], ours, peers)
    text += "\n\nThe best or one within noise:\n\n"
    text += dominance([*rows, *curve], ours, peers, "best_kept_within_noise")
    text += "\n\n## Trade-off curves of sweepft and of simple rules\n\n" + curve_table(
        [*own, *curve, *simple]
    )
    return text + "\n\n## Study by study\n\n" + each_study([*shown, *curve])


@dataclass
class Found:
    """The measurements of all sources so far."""

    rows: list[ReplayRow] = field(default_factory=list)
    settings: list[ReplayRow] = field(default_factory=list)
    simple: list[ReplayRow] = field(default_factory=list)

    def write(self, out: Path, stamp: dict[str, object]) -> str:
        """Write ``OUT.json`` and ``OUT.md``; return the page."""
        record: dict[str, object] = {"about": stamp}
        for name in ("rows", "settings", "simple"):
            record[name] = [r.to_row() for r in getattr(self, name)]
        text = f"# Stopping benchmark, {stamp['part']} studies\n\n```json\n{json.dumps(stamp)}\n```\n\n"
        text += table(self.rows) + trade_off(self.rows, self.simple, self.settings) + "\n"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(record, indent=1))
        out.with_suffix(".md").write_text(text)
        return text


def read_rows(path: Path) -> list[ReplayRow]:
    """Rows of the other rules from a previous run; replays of the same rule in the same orders are deterministic."""
    rows = json.loads(path.read_text())["rows"]
    head = ("source", "study", "rule", "orders", "runs")
    return [
        ReplayRow(*(r[k] for k in head), Score(**{k: v for k, v in r.items() if k not in head}))
        for r in rows
        if not r["rule"].startswith("calibrated")
    ]


def measure(
    found: Found,
    pool: Executor,
    source: str,
    parts: dict[str, list[Study]],
    part: str,
    orders: int,
    earlier: Sequence[ReplayRow] = (),
) -> None:
    """Measure all rules on one source; audits use half of the orders."""
    base, studies = Replay(orders=orders), parts[part]

    def ours(label: str, settings: Replay) -> list[ReplayRow]:
        replayed = run(pool, source, studies, ["calibrated"], settings)
        return [replace(r, source=source, rule=label) for r in replayed]

    known = [r for r in earlier if r.source == source and r.orders == orders]
    fresh = [r for r in RULES if not any(k.rule == r for k in known)]
    found.rows += known + [replace(r, source=source) for r in run(pool, source, studies, fresh, base)]
    found.simple += run_simple(pool, source, studies, base)
    for bound in SETTINGS:
        found.settings += ours(f"calibrated ({bound:.2f})", replace(base, max_false_stop_rate=bound))
    half = replace(base, orders=max(1, orders // 2), audit=0.05)
    found.rows += ours("calibrated + 5% audits", half)


def main() -> None:
    """Run the benchmark; write the page and the rows after each source."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--part", choices=("dev", "held"), default="held")
    parser.add_argument("--curves", type=Path, default=CURVES, help="folder of the public curves")
    parser.add_argument(
        "--reuse", type=Path, help="JSON of a previous run on the same part: reuse the rows of other rules"
    )
    parser.add_argument("--only", nargs="*", help="names of sources (default: all)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "stopping")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    begun, data, found = time.time(), load(args.curves, args.only or ()), Found()
    if not data:
        sys.exit(f"no curves found in {args.curves} or {OWN}")
    text, earlier = "", read_rows(args.reuse) if args.reuse else []
    with ProcessPoolExecutor(args.jobs) as pool:
        for source, parts in data.items():
            if not parts[args.part]:
                continue
            print(f"{source}: {len(parts[args.part])} studies, {time.time() - begun:.0f} s", flush=True)
            measure(found, pool, source, parts, args.part, args.orders, earlier)
            stamp = {
                "date": datetime.now(UTC).date().isoformat(),
                "seconds": round(time.time() - begun),
                "python": platform.python_version(),
                "versions": {p: version(p) for p in ("numpy", "ray", "optuna")},
                "machine": f"{platform.machine()}, one thread",
                "part": args.part,
                "settings": {
                    k: v for k, v in asdict(Replay(orders=args.orders)).items() if k != "prior_sweeps"
                },
                "group": {source: GROUP.get(source, 20) for source in data},
            }
            text = found.write(args.out, stamp)
    print(text)


if __name__ == "__main__":
    main()
