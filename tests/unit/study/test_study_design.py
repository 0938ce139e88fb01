"""The study's design is balanced, valid as a sweep, and comparable at equal steps."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from benchmarks.study.design import EDITIONS, SCHEDULES, configurations, spec

from sweepft.spec import load

ROOT = Path(__file__).parents[3]
EDITION = pytest.mark.parametrize("edition", EDITIONS.values(), ids=EDITIONS)


@EDITION
def test_configurations__four_runs_a_cell_two_equal_but_for_the_seed(edition):
    runs = configurations(edition)
    assert len({tuple(r.items()) for r in runs}) == len(runs)
    cells = Counter((r["learning_rate"], r["batch_size"]) for r in runs)
    assert len(cells) == len(edition.rates) * len(edition.batches)
    assert set(cells.values()) == {4}
    but_for_seed = Counter(tuple(v for k, v in r.items() if k != "seed") for r in runs)
    assert sum(n == 2 for n in but_for_seed.values()) >= len(cells)


@EDITION
def test_configurations__settings_are_not_confounded(edition):
    runs = configurations(edition)
    columns = [
        [edition.rates.index(r["learning_rate"]) for r in runs],
        [edition.batches.index(r["batch_size"]) for r in runs],
        [float(r["warmup"] > 0) for r in runs],
        [r["seed"] for r in runs],
    ]
    by_schedule = [[float(r["schedule"] == s) for r in runs] for s in SCHEDULES]
    for schedule in by_schedule:
        found = np.abs(np.corrcoef([*columns, schedule])) - np.eye(len(columns) + 1)
        assert found.max() < 0.03


@EDITION
def test_study_spec__rungs_are_at_the_steps_of_the_largest_batch_size(edition):
    rungs = spec(edition, "m", "t", "r")["early_stop"]["rungs"]
    steps = edition.samples / max(edition.batches)
    assert steps >= 40
    assert {round(b * steps / edition.samples, 9) for b in edition.batches[:-1]} == {
        round(w, 9) for w in rungs
    }


@EDITION
def test_study_spec__is_valid_and_stops_no_trial(edition, tmp_path):
    written = tmp_path / "study.yaml"
    written.write_text(yaml.safe_dump(spec(edition, "m", "t.jsonl", "r.jsonl")))
    loaded = load(written, check_files=False)
    assert loaded.early_stop.rule == "none"
    assert loaded.search.trials == len(loaded.search.start_with) == len(configurations(edition))


@EDITION
def test_study_run__plan_estimates_and_trains_nothing(edition, tmp_path, tiny_model_dir, tiny_data_file):
    """`make study ARGS="--plan --edition gpu ..."`, on a machine without the edition's GPU too."""
    command = [sys.executable, "-m", "benchmarks.study.run", "--plan", "--out", tmp_path / "study"]
    command += ["--edition", next(name for name, e in EDITIONS.items() if e is edition)]
    known = tmp_path / "known.jsonl"
    known.write_text("".join(json.dumps({"text": f"Item {i} is known."}) + "\n" for i in range(40)))
    command += ["--model", tiny_model_dir, "--in-domain", tiny_data_file, "--retention", known]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(configurations(edition))} trials" in done.stdout
    assert ("GPU-hours" in done.stdout) is (edition.resources["gpus_per_worker"] > 0)
    assert not (tmp_path / "study").exists()
