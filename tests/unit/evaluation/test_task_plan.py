"""An evaluation task: the digest of its settings, its metrics' names, its item file, and the error of a broken one."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from support.errors import raises
from support.tasks import task_folder
from sweepft.errors import EvaluateError
from sweepft.evaluation import EvalTask
from sweepft.evaluation.task_loading import metric_names
from sweepft.evaluation.tasks import check_tasks, write_items

PLAN = EvalTask("gsm8k", ("tasks",), limit=10, num_fewshot=5)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"batch_size": 1}, True),
        ({"limit": 11}, False),
        ({"num_fewshot": 0}, False),
        ({"chat_template": False}, False),
    ],
)
def test_digest__changes_only_with_what_changes_a_score(changes, same):
    assert (replace(PLAN, **changes).digest == PLAN.digest) is same


def test_digest__changes_with_the_task_file(tmp_path):
    here, there = task_folder(tmp_path / "here"), task_folder(tmp_path / "there")
    plan = EvalTask("tiny_choice", (str(here),))
    before = plan.digest
    assert replace(plan, include_path=(str(there),)).digest == before, "wherever the folder lies"
    (here / "choice.yaml").write_text((here / "choice.yaml").read_text() + "metadata: {version: 2}\n")
    assert plan.digest != before


def test_metric_names__plain_where_there_is_one_filter():
    keys = ["alias", "acc,none", "acc_stderr,none", "exact_match,strict", "exact_match,loose", "f1,loose"]
    assert metric_names(keys) == {
        "acc,none": "acc",
        "exact_match,strict": "exact_match,strict",
        "exact_match,loose": "exact_match,loose",
        "f1,loose": "f1",
    }


def test_check_tasks__names_a_missing_package(tmp_path):
    task_folder(tmp_path)
    (tmp_path / "needy.py").write_text(
        "import no_such_package_here\n\n\ndef shown(dataset):\n    return dataset\n"
    )
    task = "include: choice.yaml\ntask: needy\nprocess_docs: !function needy.shown\n"
    (tmp_path / "needy.yaml").write_text(task)
    with raises(EvaluateError, "evaluate.tasks") as caught:
        check_tasks([EvalTask("needy", (str(tmp_path),))])
    assert "no_such_package_here" in str(caught.value)


@pytest.mark.full
def test_check_tasks__looks_names_up_without_loading_data(tmp_path):
    pytest.importorskip("lm_eval")
    task_folder(tmp_path)
    (tmp_path / "far.yaml").write_text(
        "include: choice.yaml\ntask: far\ndataset_path: org/never-downloaded\n"
    )
    known = [EvalTask("far", (str(tmp_path),)), EvalTask("gsm8k")]
    assert check_tasks(known, names_only=True) == {}
    unknown = EvalTask("gsm9k", (str(tmp_path),), place="objective.maximize.task")
    with raises(EvaluateError, "evaluate.tasks") as caught:
        check_tasks([*known, unknown], names_only=True)
    assert "objective.maximize.task: gsm9k: no such task" in str(caught.value)
    assert "gsm8k" in str(caught.value)


def test_write_items__one_line_each_and_the_digest_of_the_file(tmp_path):
    file = tmp_path / "items" / "t000" / "task.jsonl.gz"
    items = [{"doc_id": 0, "response": ["ünïcode\n"]}, {"doc_id": 1, "odd": {1, 2}.__class__}]
    digest = write_items(file, items)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest == write_items(file, items)
    first, second = (json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines())
    assert first == items[0]
    assert second["doc_id"] == 1
    assert [p.name for p in file.parent.iterdir()] == ["task.jsonl.gz"]


def test_evaluation__imports_nothing_heavy():
    code = (
        "import sys, sweepft.evaluation; "
        "heavy = {'torch', 'lm_eval', 'datasets', 'transformers', 'ray'}; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
