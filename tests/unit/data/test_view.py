"""What `sweepft data` shows: counts, lengths, and the learned tokens of a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from support.errors import raises
from support.specs import spec
from sweepft.cli.main import cli
from sweepft.data.view import view_data
from sweepft.errors import DataError

MESSAGES = [{"role": "user", "content": "What is <2> & 2?"}, {"role": "assistant", "content": "It is 4."}]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {"messages": [{**MESSAGES[0], "content": f"What is <{i}> & {i}?"}, MESSAGES[1]], "domain": "sums"}
        for i in range(8)
    ]
    rows += [{"text": "plain é text"}, {"text": " "}, rows[0], {"text": "long " * 300}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "v.jsonl").write_text(json.dumps({"question": "Really?", "answer": "Yes."}) + "\n")
    return tmp_path


def shown(place: Path, model: Path, **options: Any) -> dict[str, Any]:
    values = {
        "model.path": str(model),
        "data.train": [{"path": str(place / "d.jsonl")}],
        "data.validation": [{"name": "v", "path": str(place / "v.jsonl")}],
        "data.max_length": 200,
    }
    return view_data(spec(values), **options)


def test_view__counts_and_rows(place: Path, tiny_model_dir: Path) -> None:
    found = shown(place, tiny_model_dir, rows=["1", "d.jsonl:9", "d.jsonl:12", "v.jsonl:1"])
    train, held = found["sets"]
    assert found["sources"][0]["formats"] == {"messages": 9, "text": 3}
    assert (train["rows"], train["kept"], train["duplicates"]) == (12, 10, 1)
    assert train["domains"] == {"sums": 9, "": 3}
    assert {name: (one["rows"], one["left_out"]) for name, one in train["outcomes"].items()} == {
        "no_target": (1, True),
        "over_length": (1, True),
    }
    assert train["outcomes"]["no_target"]["example"].startswith(f"{place}/d.jsonl:10")
    assert sum(part["rows"] for part in train["histogram"]) == train["kept"]
    assert train["histogram"][-1]["to"] >= train["tokens"]["longest"]
    assert held["kept"] == 1
    first, plain, long, answer = found["rows"]
    learned = [part["text"] for part in first["parts"] if part["learned"]]
    assert "".join(learned).startswith("It is 4.")
    assert "What is <0> & 0?" in "".join(part["text"] for part in first["parts"] if not part["learned"])
    assert first["targets"] < first["tokens"]
    assert "plain é text" in "".join(part["text"] for part in plain["parts"])
    assert (long["tokens"], list(long["outcomes"])) == (None, ["over_length"])
    assert answer["set"] == "validation set v"


@pytest.mark.parametrize("row", ["0", "99", "d.jsonl:99"])
def test_view__row_that_is_not_there(place: Path, tiny_model_dir: Path, row: str) -> None:
    with raises(DataError, "row"):
        shown(place, tiny_model_dir, rows=[row])


@pytest.mark.full
def test_data_command__text_json_and_page(place: Path, tiny_model_dir: Path) -> None:
    data = {
        "train": [{"path": "d.jsonl"}],
        "validation": [{"name": "v", "path": "v.jsonl"}],
        "max_length": 200,
    }
    sweep = {
        "name": "x", "model": {"path": str(tiny_model_dir)}, "data": data,
        "train": {"budget": {"samples": 32}, "micro_batch": 2, "batch_size": 4},
        "search": {"trials": 2, "space": {"learning_rate": {"log_uniform": [0.0001, 0.01]}}},
    }  # fmt: skip
    (place / "s.yaml").write_text(json.dumps(sweep))
    run = CliRunner().invoke
    text = run(cli, ["data", str(place / "s.yaml"), "--row", "1"]).output
    assert "{+It is 4." in text
    assert "have nothing to learn and are left out" in text
    assert json.loads(run(cli, ["data", str(place / "s.yaml"), "--json"]).output)["rows"][0]["number"] == 1
    done = run(cli, ["data", str(place / "s.yaml"), "--html", str(place / "page.html")])
    page = (place / "page.html").read_text()
    assert done.exit_code == 0
    assert "What is &lt;0&gt; &amp; 0?" in page
    assert "<mark>It is 4." in page
