"""A function of the user's own over generated answers: its rows, its file, what it may return, and the check of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.errors import raises
from support.specs import spec
from sweepft.data.reading import Options, Reading, RowFault
from sweepft.data.requests import read_request
from sweepft.driver.resume_rules import check_own_metrics
from sweepft.driver.task_objective import check_objective
from sweepft.errors import DataError, OwnMetricError, SpecError
from sweepft.evaluation.own_metric import (
    OwnTask,
    check_own_tasks,
    load_function,
    own_tasks,
    read_requests,
    score_answer,
)
from sweepft.ledger import ledger_path

GOOD = """\
from rules import longest

def score(answer: str, row: dict) -> float:
    return float(answer == row["completion"]) if len(answer) <= longest else 0
"""
ROWS = [{"prompt": f"Say {i}.", "completion": str(i), "level": i} for i in range(5)]


def own(folder: Path, source: str = GOOD, rows: Any = ROWS, **changes: Any) -> OwnTask:
    (folder / "rules.py").write_text("longest = 10\n")
    (folder / "my_metrics.py").write_text(source)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return replace(
        OwnTask("prompts", str(folder / "prompts.jsonl"), "my_metrics:score", (str(folder),)), **changes
    )


def as_spec(folder: Path, key: str = "maximize", **changes: Any) -> Any:
    wanted = {"data": str(folder / "prompts.jsonl"), "metric": "my_metrics:score"}
    return spec(objective={key: wanted | {"include_path": str(folder)} | changes})


# --- the rows ------------------------------------------------------------------------------------------

_USER, _ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    ("record", "options", "chat", "reference"),
    [
        ({"prompt": "Hi", "completion": "Hello"}, {}, [_USER], "Hello"),
        ({"prompt": "Hi", "gold": 3, "label": True}, {}, [_USER], ""),
        ({"question": "Hi", "answer": "Hello", "chosen": "x"}, {}, [_USER], "Hello"),
        ({"messages": [_USER, _ANSWER]}, {}, [_USER], "Hello"),
        ({"messages": [_USER, _ANSWER, _USER]}, {}, [_USER, _ANSWER, _USER], ""),
        ({"messages": [_USER, _ANSWER, _USER, _ANSWER]}, {}, [_USER, _ANSWER, _USER], "Hello"),
        ({"prompt": [_USER]}, {}, [_USER], ""),
        ({"q": "Hi", "completion": "Hello"}, {"columns": {"prompt": "q"}}, [_USER], "Hello"),
        ({"task": {"q": "Hi"}, "prompt": 3}, {"columns": {"question": "task.q"}}, [_USER], ""),
        (
            {"prompt": "Hi"},
            {"system": "Be kind."},
            [{"role": "system", "content": "Be kind."}, _USER],
            "",
        ),
    ],
)
def test_request__is_what_comes_before_the_last_answer(
    record: dict[str, Any], options: dict[str, Any], chat: list[Any], reference: str
) -> None:
    found = read_request(record, "f:1", Reading(Options(**options)))
    assert list(found.chat) == chat
    assert found.reference == reference
    assert found.row == record


@pytest.mark.parametrize(
    "record", ["Hi", {"text": "Hi"}, {"gold": 1}, {"messages": [_ANSWER]}, {"messages": []}]
)
def test_request__a_row_without_one_is_refused(record: Any) -> None:
    with pytest.raises(RowFault):
        read_request(record, "f:1", Reading(Options()))


def test_requests__are_the_first_rows_of_the_file(tmp_path: Path) -> None:
    found = read_requests(own(tmp_path, limit=3))
    assert [request.row["level"] for request in found] == [0, 1, 2]
    with raises(OwnMetricError, "objective.maximize.limit"):
        read_requests(own(tmp_path, limit=6))
    with raises(DataError, "columns") as caught:
        read_requests(own(tmp_path, rows=[*ROWS, {"gold": 1}]))
    assert "prompts.jsonl:6" in str(caught.value)


# --- the function --------------------------------------------------------------------------------------


def test_function__scores_and_may_import_files_beside_it(tmp_path: Path) -> None:
    task = own(tmp_path)
    function, first = load_function(task), read_requests(task)[1]
    assert [score_answer(task, function, answer, first) for answer in ("1", "2")] == [1.0, 0.0]


def test_function__cannot_change_the_rows_of_later_calls(tmp_path: Path) -> None:
    task = own(tmp_path, 'def score(answer, row): return row.pop("level") + 1\n')
    function, first = load_function(task), read_requests(task)[1]
    assert [score_answer(task, function, "", first) for _ in range(2)] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("source", "function", "words"),
    [
        (GOOD, "other:score", "no file other.py"),
        (GOOD, "my_metrics:scores", "name one of score"),
        ("score = 3\n", "my_metrics:score", "names a value of type int"),
        ("import nowhere_to_be_found\n", "my_metrics:score", "ModuleNotFoundError"),
        ("\ndef score(answer, row) return 1\n", "my_metrics:score", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "my_metrics:score", "SystemExit: 3 at my_metrics.py:2"),
    ],
)
def test_function__that_cannot_be_had_is_refused_with_its_place(
    tmp_path: Path, source: str, function: str, words: str
) -> None:
    with raises(OwnMetricError, "objective.maximize.metric") as caught:
        load_function(own(tmp_path, source, function=function))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1 / 0", "raises ZeroDivisionError: division by zero at my_metrics.py:2"),
        ("return row['none']", "raises KeyError: 'none'"),
        ("return None", "returns None"),
        ("return 'good'", "returns 'good'"),
        ("return float('nan')", "returns nan"),
        ("return float('inf')", "returns inf"),
        ("return [1.0]", "returns [1.0]"),
        ("return 1.0, 0.0", "returns (1.0, 0.0)"),
        ("return {'score': 1.0}", "returns {'score': 1.0}"),
    ],
)
def test_score__must_be_a_finite_number_for_every_answer(tmp_path: Path, body: str, words: str) -> None:
    task = own(tmp_path, f"def score(answer, row):\n    {body}\n")
    function, first = load_function(task), read_requests(task)[0]
    with raises(OwnMetricError, "objective.maximize.metric") as caught:
        score_answer(task, function, "an answer", first)
    first_line = str(caught.value).splitlines()[0]
    assert words in first_line
    assert "prompts.jsonl:1" in first_line
    assert "for the answer 'an answer' to the row" in first_line


@pytest.mark.parametrize(
    ("arguments", "body", "remedy"),
    [
        (
            "answer",
            "return 1.0",
            "it is called with two arguments: def score(answer: str, row: dict) -> float",
        ),
        ("answer, row, more", "return 1.0", "it is called with two arguments"),
        ("answer, row", "return len(3)", "it must score every answer"),
    ],
)
def test_score__says_how_the_function_is_called(
    tmp_path: Path, arguments: str, body: str, remedy: str
) -> None:
    task = own(tmp_path, f"def score({arguments}): {body}\n")
    with raises(OwnMetricError, "objective.maximize.metric") as caught:
        score_answer(task, load_function(task), "an answer", read_requests(task)[0])
    assert remedy in str(caught.value)
    assert "own_metric.py" not in str(caught.value), "the place is in the user's code, or there is none"


@pytest.mark.parametrize("value", ["True", "2", "-0.5", "__import__('numpy').float32(0.5)"])
def test_score__may_be_any_number(tmp_path: Path, value: str) -> None:
    task = own(tmp_path, f"def score(answer, row): return {value}\n")
    assert isinstance(score_answer(task, load_function(task), "", read_requests(task)[0]), float)


@pytest.mark.parametrize("place", [".", "best"])
def test_function__is_never_run_from_a_run_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    task = own(tmp_path / place, "raise RuntimeError('this code has run')\n")
    ledger_path(tmp_path).parent.mkdir(exist_ok=True)
    ledger_path(tmp_path).touch()
    with raises(OwnMetricError, "objective.maximize.metric") as caught:
        load_function(task)
    assert "run folder" in str(caught.value)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "my_metrics.py").symlink_to(tmp_path / place / "my_metrics.py")
    with raises(OwnMetricError, "objective.maximize.metric"):
        load_function(replace(task, include_path=(str(tmp_path / "linked"),)))


# --- the check -----------------------------------------------------------------------------------------


def test_check__calls_the_function_in_a_child_process(tmp_path: Path) -> None:
    task = own(tmp_path)
    found = check_own_tasks([task])
    assert found == {"prompts": {"items": 5, "digest": task.digest, "scores": [1.0, 0.0]}}
    assert not any("my_metrics" in name for name in sys.modules if "sweepft_own" not in name)


@pytest.mark.parametrize(
    ("source", "rows", "error", "key"),
    [
        ("def score(answer, row): return 'x'\n", ROWS, OwnMetricError, "objective.maximize.metric"),
        ("import os\nos._exit(0)\n", ROWS, OwnMetricError, "objective.maximize.metric"),
        (GOOD, [{"gold": 1}], DataError, "columns"),
        (GOOD, [], DataError, ""),
    ],
)
def test_check__refuses_before_any_gpu_is_taken(
    tmp_path: Path, source: str, rows: Any, error: type[Exception], key: str
) -> None:
    own(tmp_path, source, rows)
    with pytest.raises((OwnMetricError, DataError)) as caught:
        check_objective(as_spec(tmp_path))
    assert not key or key in caught.value.keys


@pytest.mark.full
def test_validate__shows_the_scores_of_a_metric_and_exits_2_for_a_broken_one(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    own(tmp_path)
    (tmp_path / "train.jsonl").write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(30)))
    (tmp_path / "sweep.yaml").write_text(f"""\
name: own
model: {{path: {tiny_model_dir}}}
data: {{train: [{{path: train.jsonl}}], validation: [{{name: own, fraction: 0.2}}]}}
train: {{budget: {{samples: 32}}, micro_batch: 2, learning_rate: 1.0e-3}}
search: {{trials: 2, space: {{batch_size: {{choice: [4, 8]}}}}}}
objective: {{maximize: {{data: prompts.jsonl, metric: "my_metrics:score"}}}}
""")
    command = [sys.executable, "-m", "sweepft.cli", "validate", str(tmp_path / "sweep.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "metric prompts my_metrics:score: 5 rows; 1 and 0 for the first row's own answer" in done.stdout
    own(tmp_path, "def score(answer, row): return None\n")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        "own: objective.maximize.metric: my_metrics:score must return a finite number, and returns None"
        in done.stderr
    )


# --- a resumed run -------------------------------------------------------------------------------------


def test_resume__refuses_other_rows_or_another_function(tmp_path: Path) -> None:
    own(tmp_path)
    asked = as_spec(tmp_path, limit=3)
    recorded = {task.name: task.expected for task in own_tasks(asked)}
    check_own_metrics(recorded, asked)
    check_own_metrics({}, asked)
    own(tmp_path, GOOD + "# another file\n")
    with raises(SpecError, "objective.maximize.metric"):
        check_own_metrics(recorded, asked)
    own(tmp_path, rows=ROWS[:4])
    with raises(SpecError, "objective.maximize.metric"):
        check_own_metrics(recorded, asked)
