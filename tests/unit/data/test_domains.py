"""Training and validation sources by domain: the rows they select, and the error for an unknown name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support import specs
from sweepft.data import check
from sweepft.data.split import split_data
from sweepft.errors import DataError
from sweepft.spec import SweepSpec

DOMAINS = ("glue_a", "glue_b", "math", None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """40 different rows, ten of each domain."""
    rows = [{"text": f"row {i}", "domain": DOMAINS[i % 4]} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows.jsonl"


def spec(file: Path, space: dict[str, Any] | None = None, **data: Any) -> SweepSpec:
    space = {"batch_size": {"choice": [4, 8]}} | (space or {})
    return specs.spec(data={"train": [{"path": str(file)}]} | data, search={"space": space})


def domains_of(rows: list[Any]) -> Counter[str | None]:
    return Counter(row.domain for row in rows)


def test_domains__source_takes_some_under_one_name(file: Path) -> None:
    train = [
        {"path": str(file), "domains": ["glue_*"], "domain": "glue"},
        {"path": str(file), "domains": ["math"]},
    ]
    validation = [{"name": "glue", "fraction": 0.2, "domains": ["glue"]}, {"name": "all", "fraction": 0.1}]
    split = split_data(spec(file, train=train, validation=validation).data)
    assert domains_of(split.validation["glue"]) == {"glue": 4}
    assert domains_of([*split.train, *split.validation["glue"], *split.validation["all"]]) == {
        "glue": 20,
        "math": 10,
    }
    assert [source.rows for source in split.check.sources[:2]] == [20, 10]


def test_domains__fraction_of_all_ignores_domains(file: Path) -> None:
    """Naming every domain changes nothing: rows are chosen by content."""
    train = [{"path": str(file), "domain": "one"}]
    plain, named = (
        split_data(spec(file, train=train, validation=[{"name": "own", "fraction": 0.2} | more]).data)
        for more in ({}, {"domains": ["one"]})
    )
    assert plain.validation == named.validation


def test_domains__validation_file_filters(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text(
        '{"text": "new", "domain": "math"}\n{"text": "neu", "domain": "x"}\n'
    )
    validation = [{"name": "own", "path": str(tmp_path / "other.jsonl"), "domains": ["math"]}]
    assert domains_of(split_data(spec(file, validation=validation).data).validation["own"]) == {"math": 1}


def test_domains__remote_rows_are_not_checked(file: Path) -> None:
    validation = [{"name": "own", "fraction": 0.1, "domains": ["elsewhere"]}]
    train = [{"path": str(file)}, {"path": "org/rows"}]
    assert check(spec(file, train=train, validation=validation, mixture={"elsewhere": 2.0})).train_rows == 40


PHASES = [{"domains": ["glue_a", "glue_b"]}, {"domains": ["math"]}]
NAMED = [{"domains": ["glue_*", "math"]}]


@pytest.mark.parametrize(
    ("space", "data", "key", "rule"),
    [
        ({}, {"train": [{"domains": ["glu_*"]}]}, "domains", "no row has such a domain"),
        ({}, {"validation": [{"name": "own", "fraction": 0.1, "domains": ["x"]}]}, "domains", "no row has such a domain"),
        ({}, {"mixture": {"glue": 2.0}}, "data.mixture.glue", "no training row has the domain 'glue'"),
        ({"data.mixture.glue": {"choice": [1.0]}}, {}, "search.space.data.mixture.glue", "no training row"),
        ({}, {"strategy": "phased", "phases": PHASES}, "data.phases", "some rows have no"),
        ({}, {"strategy": "phased", "phases": [PHASES[0], PHASES[0]], "train": NAMED}, "data.phases", "missing: math"),
    ],
)  # fmt: skip
def test_domains__unknown_ones_are_refused(
    file: Path, space: dict[str, Any], data: dict[str, Any], key: str, rule: str
) -> None:
    data = {**data, "train": [{"path": str(file), **source} for source in data.get("train", [{}])]}
    with pytest.raises(DataError) as caught:
        check(spec(file, space, **data))
    assert any(p.key == key and rule in p.rule and p.remedy for p in caught.value.problems), (
        caught.value.problems
    )


def test_domains__phases_over_the_rows_own(file: Path) -> None:
    train = [{"path": str(file), "domains": ["glue_*", "math"]}]
    assert check(spec(file, train=train, strategy="phased", phases=PHASES)).train_rows == 27
