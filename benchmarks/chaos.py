"""Random kills during small real sweeps on a Ray cluster of three worker nodes: losses and recovery times.

With one slot, a sweep is a pure function of its spec, so every disturbed sweep must end exactly like an undisturbed
one. Killed drivers are resumed by `sweepft resume`, killed nodes are replaced; sweepft recovers from the other kills
itself.

    make chaos-long ARGS="--kills 200 --json benchmarks/results/DATE-chaos.json --md benchmarks/results/DATE-chaos.md"
    make chaos-long ARGS="--netns"    # as root: each node in a network namespace with its own address and name
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from benchmarks.record import about, add_options, finish, table

from support.cluster import LocalCluster
from support.faults import COORDINATOR, RANK, processes, story
from support.sweeps import write_spec
from support.tiny import tiny_data, tiny_model
from sweepft.ledger import ledger_path, read_ledger

KINDS = ("driver", "coordinator", "rank", "node")
PER_SWEEP = 10
LONGEST = 600.0
"""Seconds to wait for a recovery, or for the end of a sweep, before the sweep counts as lost."""
PASSING = ("checkpoints", "base")
"""Parts of a run folder that must be removed by the end of its sweep."""


@dataclass
class Tally:
    """Losses and recovery times of one kind of fault."""

    kills: int = 0
    trials_lost: int = 0
    rungs_lost: int = 0
    unlike: int = 0
    seconds: list[float] = field(default_factory=list)
    leaked: int = 0


@dataclass
class Kill:
    """One kill: its kind, its time, and the number of ledger rows before it."""

    kind: str
    time: float
    rows: int


class Sweep:
    """One sweep on the cluster, run by the command line."""

    def __init__(self, cluster: LocalCluster, spec: Path, run: Path, nodes: list[int]) -> None:
        self.cluster, self.run, self.nodes = cluster, run, nodes
        self.kills: list[Kill] = []
        self.process = self._command("run", str(spec), "--out", str(run), "--set", "faults.per_trial=1000")

    def kill(self, kind: str, after: int) -> bool:
        """Kill once ``after`` more rows are written and a trial is running, and wait until training continues.

        Returns:
            Whether the kill happened; False if the sweep was over before.
        """
        goal = self.rows() + after
        while True:
            if self.process.poll() is not None:
                return False
            if self.rows() >= goal and self._killed(kind):
                self._recover()
                return True
            time.sleep(0.02)

    def _killed(self, kind: str) -> bool:
        """Kill one process or node of this kind if there is one and a trial is running."""
        there = processes(RANK, self.cluster.pid)
        if kind == "node":
            with_slot = [n for n in self.nodes if self._there(RANK, n)]
            if not with_slot:
                return False
            self._mark(kind)
            self.cluster.kill(with_slot[-1])
            self.nodes.remove(with_slot[-1])
            self.nodes.append(self.cluster.add())
        elif kind == "driver":
            if not there:
                return False
            self._mark(kind)
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = self._command("resume", str(self.run))
        else:
            found = there if kind == "rank" else processes(COORDINATOR, self.cluster.pid)
            if not there or not found:
                return False
            self._mark(kind)
            try:
                os.kill(found[-1].pid, signal.SIGKILL)
            except ProcessLookupError:  # the process has just ended
                self.kills.pop()
                return False
        return True

    def end(self) -> None:
        """Wait for the end of the sweep; a sweep that does not end is killed and counts as lost."""
        try:
            self.process.wait(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def rows(self) -> int:
        """Number of rows in the ledger."""
        file = ledger_path(self.run)
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def _mark(self, kind: str) -> None:
        self.kills.append(Kill(kind, time.time(), self.rows()))

    def _recover(self) -> None:
        """Wait until an attempt has started after the kill, or the sweep is over."""
        deadline, seen = time.monotonic() + LONGEST, self.kills[-1].rows
        while time.monotonic() < deadline and self.process.poll() is None:
            if (rows := self.rows()) > seen:
                seen = rows
                if any(row["kind"] == "start" for row in read_ledger(self.run)[self.kills[-1].rows :]):
                    return
            time.sleep(0.05)

    def _there(self, kind: str, node: int) -> bool:
        return bool(processes(kind, self.cluster.raylet(node)))

    def _command(self, *words: str) -> subprocess.Popen[bytes]:
        command = [
            *self.cluster.inside, sys.executable, "-m", "sweepft.cli", *words, "--address", self.cluster.address,
        ]  # fmt: skip
        with (self.run.parent / f"{self.run.name}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.cluster.env)


def add_losses(sweep: Sweep, calm: dict[str, Any], tallies: dict[str, Tally]) -> None:
    """Read the ledger of a finished sweep, and add the losses of each of its kills."""
    rows, results = read_ledger(sweep.run), story(sweep.run)
    ends = {
        row["trial_id"]: row["seq"] for row in rows if row["kind"] == "end" and row["status"] != "interrupted"
    }
    retrained = {
        r["trial_id"] for r in rows if r["kind"] == "steps" and r["seq"] > ends.get(r["trial_id"], r["seq"])
    }
    rungs = Counter((row["trial_id"], row["rung"]) for row in rows if row["kind"] == "eval")
    leaked = _leaked(sweep)
    for kill, following in itertools.zip_longest(sweep.kills, sweep.kills[1:]):
        tally, stop = tallies[kill.kind], following.rows if following else len(rows)
        tally.kills += 1
        done = {name for name, seq in ends.items() if seq < kill.rows}
        tally.trials_lost += sum(name in retrained or results[name] != calm.get(name) for name in done)
        twice = {key for key, n in rungs.items() if n > 1}
        before = {(r["trial_id"], r["rung"]) for r in rows[: kill.rows] if r["kind"] == "eval"}
        after = {(r["trial_id"], r["rung"]) for r in rows[kill.rows : stop] if r["kind"] == "eval"}
        tally.rungs_lost += len(twice & before & after)
        tally.unlike += results != calm
        tally.leaked += leaked
        begun = [row["time"] for row in rows[kill.rows : stop] if row["kind"] == "start"]
        if begun:
            tally.seconds.append(begun[0] - kill.time)


def _leaked(sweep: Sweep) -> int:
    """Ranks, coordinators, placement groups and temporary files that are left a minute after a sweep."""
    deadline, cluster = time.monotonic() + 60, sweep.cluster
    while True:
        left = (
            len(processes(RANK, cluster.pid))
            + len(processes(COORDINATOR, cluster.pid))
            + cluster.placements()
            + sum(path.is_file() for name in PASSING for path in (sweep.run / name).rglob("*"))
        )
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def kill_in_sweeps(
    folder: Path, kills: int, seed: int, namespaces: bool, minutes: float
) -> tuple[dict[str, Tally], int]:
    """Kill in sweeps of two-rank and one-rank trials in turn; returns a tally by kind, and the number of sweeps."""
    dice = random.Random(seed)
    model, data = tiny_model(folder / "model"), tiny_data(folder, rows=96)
    specs, calm = [], []
    for ranks in (2, 1):
        (home := folder / f"ranks{ranks}").mkdir()
        specs.append(write_spec(
            home, model, data, train={"batch_size": 16},
            search={"trials": 8, "start_with": [{"learning_rate": 3.0e-3}],
                    "space": {"learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]}}},
            resources={"workers_per_trial": ranks, "cpus_per_worker": 0.9, "concurrent_trials": 1, "placement": "any"},
            checkpoint="rungs",
        ))  # fmt: skip
        command = [sys.executable, "-m", "sweepft.cli", "run", str(specs[-1]), "--out", str(home / "calm")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        calm.append(story(home / "calm"))
    tallies, sweeps = {kind: Tally() for kind in KINDS}, 0
    queue = [KINDS[i % len(KINDS)] for i in range(kills)]
    dice.shuffle(queue)
    began = time.monotonic()
    with LocalCluster(workers=3, namespaces=namespaces) as cluster:
        nodes = [0, 1, 2]
        while queue and time.monotonic() - began < 60 * minutes:
            which = sweeps % len(specs)
            sweep = Sweep(cluster, specs[which], folder / f"sweep{sweeps:03d}", nodes)
            try:
                for _ in range(min(PER_SWEEP, len(queue))):
                    if not sweep.kill(queue[-1], after=dice.randint(2, 8)):
                        break
                    queue.pop()
                sweep.end()
            except (
                KeyboardInterrupt,
                RuntimeError,
            ) as error:  # RuntimeError: a node or the cluster did not start
                sweep.process.kill()
                sweep.process.wait()
                print(f"ended early, the running sweep is not counted: {error!r}", flush=True)
                break
            add_losses(sweep, calm[which], tallies)
            sweeps += 1
            bad = sum(t.trials_lost + t.rungs_lost + t.unlike + t.leaked for t in tallies.values())
            spent = time.monotonic() - began
            print(
                f"{kills - len(queue)} of {kills} kills, {sweeps} sweeps, {bad} losses, {spent:.0f} s",
                flush=True,
            )
    return tallies, sweeps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--netns", action="store_true", help="run every node in a network namespace (needs root)"
    )
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further sweep after this time")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="keep the runs in FOLDER (empty or new)")
    add_options(parser)
    args = parser.parse_args()
    facts = about()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # SIGTERM, like Ctrl-C, ends early with the results so far
    with tempfile.TemporaryDirectory(prefix="chaos-") as passing:
        folder = args.runs or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        tallies, sweeps = kill_in_sweeps(folder, args.kills, args.seed, args.netns, args.minutes)
    header = (
        "killed", "kills", "finished trials lost", "finished rungs lost", "sweeps that ended differently",
        "seconds to recover (median)", "(longest)", "processes, placement groups and files left",
    )  # fmt: skip
    rows = [
        (
            kind, t.kills, t.trials_lost, t.rungs_lost, t.unlike,
            statistics.median(t.seconds) if t.seconds else "-", max(t.seconds, default="-"), t.leaked,
        )
        for kind, t in tallies.items()
    ]  # fmt: skip
    figures = {"sweeps": sweeps, "faults": {kind: vars(tally) for kind, tally in tallies.items()}}
    kills = sum(tally.kills for tally in tallies.values())
    place = " of nodes in network namespaces" if args.netns else ""
    what = f"{sweeps} sweeps of two-rank and one-rank trials in turn"
    text = f"{kills} kills in {what}, on a cluster{place}.\n\n{table(header, rows)}"
    finish(args, "Random kills during real sweeps", facts, figures, text)


if __name__ == "__main__":
    main()
