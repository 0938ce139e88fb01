"""Comparison of several sweeps by folder: comparable ones are ranked, others are marked as not comparable."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from synthetic_sweep import Sweep

from sweepft.cli.main import cli
from sweepft.ledger import SweepState
from sweepft.report import summarise, write_comparison
from sweepft.report.compare import compare


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [
        Sweep(trials=16, name="median").write(tmp_path_factory.mktemp("a")),
        Sweep(trials=16, rule="none", name="all-run", slots=2).write(tmp_path_factory.mktemp("b")),
        Sweep(trials=3, seed=4, name="median").write(tmp_path_factory.mktemp("c")),
    ]


def comparison(folders: list[Path], **changes: Any) -> dict[str, Any]:
    return compare([(f, SweepState.load(f)) for f in folders], **changes)


def test_compare__each_sweep_equals_its_own_report(folders: list[Path]) -> None:
    found = comparison(folders)
    for folder, sweep in zip(folders, found["sweeps"], strict=True):
        own = summarise(SweepState.load(folder))
        assert sweep["winner"] == own["result"]["winner"]
        assert sweep["counts"] == own["counts"]
        for key, value in sweep["cost"].items():
            assert value == own["cost"][key]
    objectives = {s["label"]: s["winner"]["objective"] for s in found["sweeps"]}
    assert found["best"] == min(objectives, key=objectives.__getitem__)
    assert found["best"] in found["headline"]


def test_compare__equal_names_are_distinguished_by_folder(folders: list[Path]) -> None:
    labels = [s["label"] for s in comparison(folders)["sweeps"]]
    assert labels == [folders[0].name, "all-run", folders[2].name]


def test_compare__best_so_far_falls_and_ends_at_the_whole_cost(folders: list[Path]) -> None:
    for sweep in comparison(folders)["sweeps"]:
        hours, best, names = zip(*sweep["best_over_time"], strict=True)
        assert list(hours) == sorted(hours)
        assert list(best) == sorted(best, reverse=True)
        assert best[-1] == sweep["winner"]["objective"]
        assert names[-1] == sweep["winner"]["trial_id"]
        assert hours[-1] == pytest.approx(sweep["cost"]["capacity"] / 3600)


def test_compare__shows_only_keys_that_differ(folders: list[Path]) -> None:
    found = {d["key"]: d["values"] for d in comparison(folders)["differences"]}
    assert found["early_stop.rule"] == ["median", "none", "median"]
    assert found["search.trials"] == [16, 16, 3]
    assert "train.budget.samples" not in found
    assert comparison([folders[0], folders[0]])["differences"] == []


def test_compare__other_validation_data_make_losses_incomparable(folders: list[Path]) -> None:
    views = [SweepState.load(f) for f in folders[:2]]
    for digest, view in zip("ab", views, strict=True):
        view.header["data"] = {"validation": [{"name": "own", "weight": 1.0, "data": {"digest": digest}}]}
    found = compare(list(zip(folders[:2], views, strict=True)))
    assert found["best"] is None
    assert "validation data or their tokens differ" in found["not_comparable"][0]
    assert "cannot be ranked" in found["headline"]
    views[1].header["data"]["validation"][0]["data"]["digest"] = "a"
    assert compare(list(zip(folders[:2], views, strict=True)))["not_comparable"] == []


def test_compare__other_tokens_of_the_same_text_compare_by_bits_per_byte(folders: list[Path]) -> None:
    views = [SweepState.load(f) for f in folders[:2]]
    for digest, size, view in zip("ab", (1000, 4000), views, strict=True):
        about = {"data": {"digest": digest}, "text_bytes": size, "text_digest": "same"}
        other = {"name": "retention", "weight": 0.0, "data": {"digest": digest}}
        view.header["data"] = {"validation": [{"name": "math", "weight": 1.0} | about, other]}
    runs = list(zip(folders[:2], views, strict=True))
    found = compare(runs)
    assert (found["unit"], found["not_comparable"]) == ("bits_per_byte", [])
    assert found["best"] == found["sweeps"][1]["label"], "its tokens hold four times the text"
    for sweep in found["sweeps"]:
        winner = sweep["winner"]
        math_set, size = winner["validation"]["math"], 1000 if sweep is found["sweeps"][0] else 4000
        bits = math_set["loss"] * math_set["tokens"] / size / math.log(2)
        assert winner["bits_per_byte"] == {"objective": pytest.approx(bits), "math": pytest.approx(bits)}
    behind = found["sweeps"][0]["behind"]
    first, second = (s["winner"]["bits_per_byte"]["objective"] for s in found["sweeps"])
    assert behind["value"] == pytest.approx(first - second)
    assert "by bits per byte" in found["headline"]
    views[1].header["data"]["validation"][0]["text_digest"] = "other"
    found = compare(runs)
    assert (found["best"], found["unit"]) == (None, "nats_per_token")


def test_compare__gpu_hours_and_cpu_hours_are_incomparable(folders: list[Path], tmp_path: Path) -> None:
    gpu = Sweep(trials=4, gpus=2.0).write(tmp_path)
    assert "some on CPUs" in comparison([folders[0], gpu])["not_comparable"][0]


def test_compare__lists_a_sweep_without_a_winner(folders: list[Path], tmp_path: Path) -> None:
    lines = (folders[0] / "ledger/ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger/ledger.jsonl").write_bytes(b"".join(lines[:3]))
    paths = write_comparison([folders[0], tmp_path], tmp_path / "out")
    begun = json.loads(paths["json"].read_text())["sweeps"][1]
    assert begun["winner"] is None
    assert begun["behind"] is None
    assert begun["best_over_time"] == []


def test_report_command__compares_several_runs_and_reports_one(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "comparison"
    done = CliRunner().invoke(cli, ["report", *map(str, folders), "--out", str(out), "--price", "2"])
    assert done.exit_code == 0, done.output
    assert {p.name for p in out.iterdir()} == {"comparison.json", "comparison.md", "comparison.html"}
    assert "all-run" in (out / "comparison.md").read_text()
    price = json.loads((out / "comparison.json").read_text())["sweeps"][0]["cost"]["price"]
    assert price["per_hour"] == 2
    alone = CliRunner().invoke(cli, ["report", str(folders[0])])
    assert str(folders[0] / "report.html") in alone.output
