"""The numbers of docs/explanation/findings.md, computed from the table by other means."""

import json
import re

import pandas as pd
import pytest
from benchmarks.study.findings import LARGER, PAGE, REPLAYED, TABLE, page
from scipy.stats import spearmanr

pytestmark = pytest.mark.skipif(not TABLE.exists(), reason="the study's table is not there")


@pytest.fixture(scope="module")
def frame():
    return pd.read_parquet(TABLE)


@pytest.fixture(scope="module")
def main(frame):
    return frame[frame["study"] == "sweepft/study"]


@pytest.fixture(scope="module")
def ends(main):
    return main.groupby("run_id").last()


def test_findings__page_is_made_from_the_tables(frame):
    assert PAGE.read_text() == page(frame, json.loads(REPLAYED.read_text()), pd.read_parquet(LARGER))


def test_data_card__lists_every_column_and_no_other(frame):
    card = TABLE.with_name("README.md").read_text()
    listed = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", card, re.M)
    assert sorted(re.findall(r"`(\w+)`", " ".join(listed))) == sorted(frame.columns)
    runs, rows = re.search(r"(\d+) runs, ([\d,]+) rows", card).groups()
    assert (int(runs), int(rows.replace(",", ""))) == (frame["run_id"].nunique(), len(frame))


def test_larger_table__has_the_same_columns_and_no_gap(frame):
    larger = pd.read_parquet(LARGER)
    assert larger.columns.tolist() == frame.columns.tolist()
    for _, run in larger.groupby("run_id"):
        assert run["step"].tolist() == list(range(1, len(run) + 1))
        assert run["samples"].iloc[-1] == larger["samples"].max()
    early = larger[(larger["samples"] > 1024) & (larger["samples"] <= 1280)]
    early = early.groupby("run_id")["grad_norm"].mean()
    final = larger.groupby("run_id")["final_retention"].last()
    rho = spearmanr(early, final[early.index]).statistic
    assert f"| gradient norm | 0.25 | retention loss | {rho:+.2f} (" in PAGE.read_text()
    count = early.size
    assert f"{count} runs of a larger edition of the study" in PAGE.read_text()
    assert f"{count} completed runs, {len(larger):,}" in TABLE.with_name("README.md").read_text()


def test_study_table__has_a_hundred_runs_and_no_gap(main):
    assert main["run_id"].nunique() >= 100
    assert TABLE.stat().st_size < 5 * 2**20
    for _, run in main.groupby("run_id"):
        assert run["step"].tolist() == list(range(1, len(run) + 1))
        assert run["samples"].iloc[-1] == main["samples"].max()
        assert (
            run[["train_loss", "grad_norm", "lr_now", "final_metric", "final_retention"]].notna().all().all()
        )
        assert run["eval_metric"].iloc[-1] == run["final_metric"].iloc[-1]


def test_findings__seed_noise_is_the_pages(ends):
    keys = ["lr", "batch_size", "warmup", "schedule"]
    gaps = [g["final_metric"].max() - g["final_metric"].min() for _, g in ends.groupby(keys) if len(g) == 2]
    noise = pd.Series(gaps).median() / (2**0.5 * 0.6745)
    assert f"standard deviation of {noise:.3f} in in-domain loss ({len(gaps)} pairs)" in PAGE.read_text()


def test_findings__best_cell_is_the_pages(ends):
    cells = ends.groupby(["batch_size", "lr"])["final_metric"].mean()
    batch = int(cells.idxmin()[0])
    assert f"batch size {batch} ends lowest in-domain, at {cells.min():.3f}" in PAGE.read_text().replace(
        "\n", " "
    )


def test_findings__correlation_is_the_pages(main, ends):
    budget = main["samples"].max()
    share = main["samples"] / budget
    early = main[(share > 0.4) & (share <= 0.5)].groupby("run_id")["train_loss"].mean()
    rho = spearmanr(early, ends["final_metric"][early.index]).statistic
    assert f"| training loss | 0.5 | in-domain loss | {rho:+.2f} (" in PAGE.read_text()
