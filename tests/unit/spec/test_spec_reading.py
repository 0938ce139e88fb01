"""YAML and overrides as a spec reads them: YAML 1.2 numbers, places kept, hostile files refused cheaply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweepft.errors import Problem, SpecError
from sweepft.spec import SweepSpec, WarmupSteps, load
from sweepft.spec.yaml_source import MAX_ALIASES, MAX_BYTES, read, to_yaml


def parse(path: Path, text: str | bytes) -> dict[str, object]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read(path, "f.yaml").data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("1.0e-3", 0.001),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1_000", -1000),
        ("1_000.5", 1000.5),
        ("010", 10),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ("1e", "1e"),
        ("0x10", "0x10"),
        ("!!str 12", "12"),
        ("!!float 3", 3.0),
        (".inf", float("inf")),
    ],
)
def test_scalars_are_yaml_1_2(text: str, value: object, tmp_path: Path) -> None:
    found = parse(tmp_path / "f.yaml", f"a: {text}\n")["a"]
    assert (type(found), found) == (type(value), value)


def billion_laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "where", "rule"),
    [
        ("a: [1, 2\nb: 3\n", "f.yaml:2", "is not valid YAML"),
        ("a: 1\n b: 2\n", "f.yaml:2", "is not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3", "is given twice"),
        ("a: {b: 1, b: 2}\n", "f.yaml:1", "is given twice"),
        ("- 1\n", "f.yaml:1", "must be a mapping"),
        ("a: 1\n---\nb: 1\n", "f.yaml:2", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [echo]\n", "f.yaml:1", "must not carry the tag"),
        ("a: !!binary aGk=\n", "f.yaml:1", "must not carry the tag"),
        ("a: !!int x\n", "f.yaml:1", "cannot be read"),
        ("a: " + "9" * 5000, "f.yaml:1", "cannot be read"),
        ("1: a\n", "f.yaml:1", "keys must be text"),
        ("[1]: a\n", "f.yaml:1", "keys must be text"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", "f.yaml:3", "merge keys are not read"),
        ("a: &a\n  b: *a\n", "f.yaml:2", "must not hold itself"),
        ("a: " + "[" * 3000 + "]" * 3000, "f.yaml", "is nested too deeply"),
        ("a: &a 1\nb: [" + "*a, " * (MAX_ALIASES + 1) + "]", "f.yaml", "aliases"),
        (billion_laughs(), "f.yaml", "must not expand"),
        ("a: \x00", "f.yaml", "is not valid YAML"),
        (b"a: 1\nb: \xff\n", "f.yaml:2", "must be UTF-8"),
        ("a: " + "x" * MAX_BYTES, "f.yaml", "must not be larger"),
    ],
    ids=lambda value: None if len(value) < 40 else "long",
)
def test_what_is_no_plain_mapping_is_refused(text: str, where: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        parse(tmp_path / "f.yaml", text)
    problem = caught.value.problems[0]
    assert problem.where == where
    assert rule in problem.rule


@pytest.mark.parametrize("what", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read(what: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: "):
        load(tmp_path / what)


def test_an_empty_file_lacks_all_sections(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "empty.yaml")
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"name", "model", "data", "train", "search"}


def test_aliases_stand_for_their_value(tmp_path: Path) -> None:
    assert parse(tmp_path / "f.yaml", "a: &x [1, {b: 2}]\nc: *x\n") == {
        "a": [1, {"b": 2}],
        "c": [1, {"b": 2}],
    }


@pytest.mark.parametrize(
    "text", ["1e-3", "on", "null", "12:30", "2024-01-01", "- a", "a: b", "#x", "", "é", "1_0"]
)
def test_text_survives_writing(text: str, tmp_path: Path) -> None:
    assert parse(tmp_path / "f.yaml", to_yaml({"a": text})) == {"a": text}


@pytest.mark.parametrize(
    ("override", "read_back", "value"),
    [
        ("train.budget.samples=200", lambda s: s.train.budget.samples, 200),
        ("train.budget={epochs: 0.5}", lambda s: s.train.budget.epochs, 0.5),
        ("train.warmup={steps: 3}", lambda s: s.train.warmup, WarmupSteps(steps=3)),
        ("train.optimizer.weight_decay=1e-2", lambda s: s.train.optimizer.weight_decay, 0.01),
        ("data.train.0.limit=7", lambda s: s.data.train[0].limit, 7),
        ("data.train.1.path=test.jsonl", lambda s: len(s.data.train), 2),
        ("data.test=[{name: t, path: test.jsonl}]", lambda s: s.data.test[0].name, "t"),
        (
            "search.space.optimizer.weight_decay.choice=[0.0, 0.1]",
            lambda s: s.search.space["optimizer.weight_decay"].choices,
            (0.0, 0.1),
        ),
        ("search.start_with.0.learning_rate=1e-3", lambda s: s.search.start_with[0]["learning_rate"], 0.001),
        ("resources=null", lambda s: s.resources.workers_per_trial, 1),
        ("name=other", lambda s: s.name, "other"),
    ],
)
def test_overrides(
    override: str, read_back: Callable[[SweepSpec], object], value: object, loaded: Callable[..., SweepSpec]
) -> None:
    spec = loaded(*(["search.space.warmup=null"] if "warmup" in override else []), override)
    assert read_back(spec) == value


def test_an_override_fixes_a_swept_field(loaded: Callable[..., SweepSpec]) -> None:
    spec = loaded("search.space.learning_rate=null", "train.learning_rate=1e-5")
    assert spec.train.learning_rate == 1e-5
    assert "learning_rate" not in spec.search.space


def test_overrides_apply_in_order(loaded: Callable[..., SweepSpec]) -> None:
    assert loaded("search.trials=3", "search.trials=5").search.trials == 5


@pytest.mark.parametrize(
    ("override", "key", "rule"),
    [
        ("train.budget.samples", "train.budget.samples", "must have the form key.path=value"),
        ("=3", "--set", "must have the form key.path=value"),
        ("train..seed=3", "train..seed", "must have the form key.path=value"),
        ("train.seed=[1", "train.seed", "is not valid YAML"),
        ("train.micro_batch.x=1", "train.micro_batch.x", "cannot be set: train.micro_batch is a value"),
        ("data.train.x.path=a", "data.train.x.path", "must be an index of data.train, 0 to 1"),
        ("data.train.2.path=a", "data.train.2.path", "must be an index of data.train, 0 to 1"),
        ("data.train.0=null", "data.train.0", "cannot be removed from its list"),
        ("train.seed=-1", "train.seed", "must be at least 0"),
        ("train.sede=1", "train.sede", "is not a known key"),
        ("train.optimizer={beta: 1}", "train.optimizer.beta", "is not a known key"),
    ],
)
def test_a_wrong_override_is_named(
    override: str, key: str, rule: str, problems: Callable[..., list[Problem]]
) -> None:
    (problem,) = problems(override)
    assert (problem.where, problem.key) == (f"--set {override}", key)
    assert rule in problem.rule


def test_relative_paths_start_from_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.parent)
    spec = load(
        f"{place.name}/valid.yaml", ["model.chat_template=./t.jinja", "data.test=[]"], check_files=False
    )
    assert spec.model.path == str(place / "model")
    assert spec.data.train[0].path == str(place / "train.jsonl")
    assert spec.data.validation[0].path == str(place / "validation.jsonl")
    assert spec.model.chat_template == str(place / "t.jinja")


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("org/name", "org/name"),
        ("ibm-granite/granite-3.0-2b-base", "ibm-granite/granite-3.0-2b-base"),
        ("folder/here", "{place}/folder/here"),
        ("./org/name", "{place}/org/name"),
        ("../org/name", "{parent}/org/name"),
        ("org/name.jsonl", "{place}/org/name.jsonl"),
        ("a/b/c", "{place}/a/b/c"),
        ("/abs/x", "/abs/x"),
        ("plain", "{place}/plain"),
    ],
)
def test_hub_ids_and_paths(path: str, resolved: str, place: Path) -> None:
    (place / "folder" / "here").mkdir(parents=True)
    spec = load(place / "valid.yaml", [f"model.path={path}"], check_files=False)
    assert spec.model.path == resolved.format(place=place, parent=place.parent)


def test_builtin_template_names_are_no_paths(loaded: Callable[..., SweepSpec]) -> None:
    assert loaded("model.chat_template=chatml").model.chat_template == "chatml"
