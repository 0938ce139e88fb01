"""Rows that cannot be learned from: the same counts in validate, plan and run, and an error where they are many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from support.errors import raises
from support.sweeps import write_spec
from support.tiny import tiny_rows
from sweepft.cli.main import cli
from sweepft.data import check, prepare
from sweepft.data.outcomes import Outcomes
from sweepft.data.survey import survey
from sweepft.errors import DataError
from sweepft.spec import load
from sweepft.spec.sweep import SweepSpec

LOUD = """\
{%- for m in messages %}
{%- if m['role'] == 'system' %}{{- raise_exception('no system turns here') }}{%- endif %}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def asked(i: int) -> dict[str, Any]:
    """A row without an answer."""
    return {
        "messages": [{"role": "user", "content": f"number {i}?"}, {"role": "narrator", "content": "silence"}]
    }


def refused(i: int) -> dict[str, Any]:
    """A row with a system turn, which the template refuses."""
    return {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": f"number {i}?"},
            {"role": "assistant", "content": f"it is {i}"},
        ]
    }


def long(i: int) -> dict[str, Any]:
    """A row whose answer begins behind `max_length`."""
    return {"prompt": f"{i} " * 150, "completion": "x"}


@pytest.fixture
def sweep(tmp_path: Path, tiny_model_dir: Path) -> Any:
    """Writes a spec whose training file has `good` usable rows and some others."""
    (tmp_path / "loud.jinja").write_text(LOUD)

    def write(good: int, others: list[dict[str, Any]], **data: Any) -> Path:
        file = tmp_path / "rows.jsonl"
        rows = [*tiny_rows(good), *others]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if "validation" not in data:
            held = tmp_path / "held.jsonl"
            held.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(8, seed=9)))
            data["validation"] = [{"name": "own", "path": str(held)}]
        model = {"path": str(tiny_model_dir), "chat_template": str(tmp_path / "loud.jinja")}
        return write_spec(tmp_path, tiny_model_dir, file, model=model, data={"overlap": "drop", **data})

    return write


def command(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


OTHERS = pytest.mark.parametrize(
    ("other", "why"),
    [
        (asked, "no assistant turn (roles: user, narrator; `roles` of the source maps other names)"),
        (refused, "no system turns here"),
        (long, "longer than data.max_length"),
    ],
)


@OTHERS
@pytest.mark.parametrize("truncate", [False, True])
def test_outcomes__many_lost_rows_are_an_error(
    sweep: Any, tmp_path: Path, other: Any, why: str, truncate: bool
) -> None:
    file = sweep(40, [other(i) for i in range(10)], over_length="truncate" if truncate else "drop")
    if truncate and other is long:
        why = "cut away"
    spec = load(file)
    said = set()
    for prepared in (lambda: prepare(spec, tmp_path / "c"), lambda: survey(spec)):
        with raises(DataError, "data.max_lost") as caught:
            prepared()
        [problem] = caught.value.problems
        assert "10 of 50 rows (20.0%)" in problem.rule
        assert f"{tmp_path}/rows.jsonl:41" in problem.rule
        assert why in problem.rule
        assert "data.max_lost: 0.2" in problem.remedy
        said.add(str(problem))
    assert len(said) == 1


@OTHERS
def test_outcomes__accepted_rows_are_one_warning(sweep: Any, tmp_path: Path, other: Any, why: str) -> None:
    spec = load(sweep(40, [other(i) for i in range(10)], max_lost=0.2))
    [warning] = prepare(spec, tmp_path / "c").warnings
    assert "training data: 10 of 50 rows" in warning
    assert why in warning
    assert survey(spec).warnings == (warning,)


@OTHERS
def test_outcomes__no_usable_row_is_an_error_whatever_is_accepted(
    sweep: Any, tmp_path: Path, other: Any, why: str
) -> None:
    spec = load(sweep(0, [other(i) for i in range(6)], max_lost=1.0))
    for prepared in (lambda: prepare(spec, tmp_path / "c"), lambda: survey(spec)):
        with raises(DataError, "data.train") as caught:
            prepared()
        assert "none of 6 rows can be used" in str(caught.value)
        assert why in str(caught.value)


@pytest.mark.full
def test_outcomes__every_command_prints_the_same(sweep: Any, tmp_path: Path) -> None:
    file = sweep(40, [refused(i) | {"topic": "x"} for i in range(10)], max_lost=0.2)
    prepared = prepare(load(file), tmp_path / "c")
    [warning], notes = prepared.warnings, list(prepared.notes)
    assert [note.split(": ", 1)[1] for note in notes] == [
        "read as chat (messages): 50 conversations",
        "columns not used: topic (10 of 50 rows)",
        "read as chat (messages): 8 conversations",
    ]
    said = command("validate", file)
    assert f"warning: {warning}" in said
    assert all(f"  {note}" in said for note in notes)
    out = tmp_path / "plan.json"
    command("plan", file, "--json", out)
    planned = json.loads(out.read_text())
    assert warning in planned["warnings"]
    assert planned["data"]["notes"] == notes
    assert (planned["data"]["train"], planned["data"]["left_out"]) == (40, 10)


@pytest.mark.full
@pytest.mark.parametrize("name", ["validate", "plan"])
def test_outcomes__every_command_refuses_the_same(sweep: Any, name: str) -> None:
    with raises(DataError, "data.train") as caught:
        command(name, sweep(0, [refused(i) for i in range(6)]))
    assert "no system turns here" in str(caught.value)


def test_validate__sees_rows_without_answers_if_the_model_is_elsewhere(sweep: Any) -> None:
    file = sweep(0, [asked(i) for i in range(6)])
    with raises(DataError, "data.train") as caught:
        command("validate", file, "--set", "model.path=org/model", "--set", "model.chat_template=chatml")
    assert "no assistant turn (roles: user, narrator; `roles` of the source maps other names)" in str(
        caught.value
    )
    file = sweep(99, [asked(0)])
    said = command("validate", file, "--set", "model.path=org/model", "--set", "model.chat_template=chatml")
    assert "1 of 100 rows have nothing to learn" in said
    assert "the model is not on this machine" in said


def test_outcomes__each_source_counts_for_itself(sweep: Any, tmp_path: Path) -> None:
    """A small source that is lost as a whole does not hide behind a large one."""
    file = sweep(60, [])
    small = tmp_path / "small.jsonl"
    small.write_text("".join(json.dumps(refused(i)) + "\n" for i in range(2)))
    train = [{"path": str(tmp_path / "rows.jsonl")}, {"path": str(small)}]
    spec = load(file, (f"data.train={json.dumps(train)}", "data.max_lost=0.5"))
    with raises(DataError, "data.train.1") as caught:
        prepare(spec, tmp_path / "c")
    assert str(small) in str(caught.value)
    small.write_text(small.read_text() + json.dumps(tiny_rows(1, seed=7)[0]) + "\n")
    with raises(DataError, "data.max_lost"):
        prepare(spec, tmp_path / "c")
    accepted = load(file, (f"data.train={json.dumps(train)}", "data.max_lost=0.7"))
    prepared = prepare(accepted, tmp_path / "c")
    assert prepared.train.counts == {"kept": 61, "refused": 2}
    assert f"training source 1 ({small}): 2 of 3 rows are refused" in prepared.warnings[0]
    assert prepare(accepted, tmp_path / "c") == prepared


@pytest.mark.parametrize("kind", ["validation", "test"])
def test_outcomes__validation_and_test_sets_too(sweep: Any, tmp_path: Path, kind: str) -> None:
    """A test set is looked at before the search, so that its rows are not missed at the end."""
    other = tmp_path / "other.jsonl"
    rows = [*tiny_rows(8, seed=5), *(refused(i) for i in range(4))]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = sweep(40, [], **{kind: [{"name": "s", "path": str(other)}]})
    for prepared in (lambda: prepare(load(file), tmp_path / "c"), lambda: survey(load(file))):
        with raises(DataError, "data.max_lost") as caught:
            prepared()
        assert caught.value.problems[0].where == f"{kind} set s"


def test_survey__extrapolates_and_is_never_wrong_about_an_error(sweep: Any) -> None:
    spec = load(sweep(90, [refused(i) for i in range(10)], max_lost=0.1))
    some = survey(spec, sampled=20)
    assert (some.train, some.left_out, some.tokenised, some.every) == (90, 10, 20, False)
    assert some.longest == spec.data.max_length
    every = survey(spec)
    assert (every.train, every.left_out, every.tokenised, every.every) == (90, 10, 100, True)
    assert some.tokens == pytest.approx(every.tokens, rel=0.2)
    file = Path(spec.data.train[0].path)
    file.write_text("".join(json.dumps(row) + "\n" for row in (refused(0), *tiny_rows(99))))
    assert survey(spec, sampled=9).every, "one of nine is more than a tenth: all rows are looked at"


def test_check__needs_no_tokenizer(sweep: Any) -> None:
    spec: SweepSpec = load(sweep(99, [asked(0)]))
    assert "1 of 100 rows have nothing to learn" in check(spec).warnings[0]


@pytest.mark.parametrize(("lost", "share"), [(50, "0.5"), (51, "0.51"), (6, "0.06"), (99, "0.99")])
def test_problem__the_remedy_accepts_what_it_names(lost: int, share: str) -> None:
    outcomes = Outcomes("s", "data.train", 100, {"refused": lost}, {"refused": "f:1"})
    problem = outcomes.problem(0.05)
    assert problem is not None
    assert problem.remedy.endswith(f"data.max_lost: {share}")
    assert outcomes.problem(float(share)) is None
    assert outcomes.problem(lost / 100) is None


@pytest.mark.parametrize(
    ("keys", "row", "says"),
    [
        ({"reasoning_content": "r"}, {}, "reasoning_content"),
        ({"thinking": "r"}, {}, "thinking"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, {}, "tool calls"),
        ({}, {"tools": [{"name": "f"}]}, "tools"),
    ],
)
def test_outcomes__what_the_template_never_reads_is_not_rendered(
    sweep: Any, tmp_path: Path, keys: dict[str, Any], row: dict[str, Any], says: str
) -> None:
    messages = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"} | keys]
    spec = load(sweep(40, [{"messages": messages} | row] * 4))
    with raises(DataError, "data.max_lost") as caught:
        prepare(spec, tmp_path / "c")
    assert says in str(caught.value)
    template = tmp_path / "loud.jinja"
    reading = "{%- if m[KEY] is defined %}{{- m[KEY] | tojson }}{%- endif %}"
    if says == "tools":
        template.write_text("{{- tools | tojson if tools }}" + LOUD)
    else:
        reading = reading.replace("KEY", repr(next(iter(keys))))
        template.write_text(LOUD.replace("{{- '<|im_start|>'", reading + "{{- '<|im_start|>'"))
    assert prepare(spec, tmp_path / "c").train.counts["kept"] == 44
