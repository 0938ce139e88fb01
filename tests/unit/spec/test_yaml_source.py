"""Reading YAML and overrides: YAML 1.2 scalars, places of keys, limits, paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.errors import raises
from sweepft.errors import Problem, SpecError
from sweepft.spec import SweepSpec, WarmupSteps, load
from sweepft.spec.yaml_source import MAX_ALIASES, MAX_BYTES, MAX_DEPTH, read, to_yaml


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
def test_read__scalars_are_yaml_1_2(text: str, value: object, tmp_path: Path) -> None:
    found = parse(tmp_path / "f.yaml", f"a: {text}\n")["a"]
    assert (type(found), found) == (type(value), value)


def billion_laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: [1, 2\nb: 3\n", "f.yaml:2"),
        ("a: 1\n b: 2\n", "f.yaml:2"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3"),
        ("a: {b: 1, b: 2}\n", "f.yaml:1"),
        ("- 1\n", "f.yaml:1"),
        ("a: 1\n---\nb: 1\n", "f.yaml:2"),
        ("a: !!python/object/apply:os.system [echo]\n", "f.yaml:1"),
        ("a: !!binary aGk=\n", "f.yaml:1"),
        ("a: !!int x\n", "f.yaml:1"),
        ("a: " + "9" * 5000, "f.yaml:1"),
        ("1: a\n", "f.yaml:1"),
        ("[1]: a\n", "f.yaml:1"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", "f.yaml:3"),
        ("a: &a\n  b: *a\n", "f.yaml:2"),
        ("a: " + "[" * 3000 + "]" * 3000, "f.yaml:1"),
        ("a: 1\nb: " + "[" * 500_000, "f.yaml:2"),
        ("a: 1\nb: [" + "1," * 500_000 + "]", "f.yaml:2"),
        ("".join(" " * i + "a:\n" for i in range(MAX_DEPTH + 2)), f"f.yaml:{MAX_DEPTH}"),
        ("a: &a 1\nb: [" + "*a, " * (MAX_ALIASES + 1) + "]", "f.yaml:2"),
        (billion_laughs(), "f.yaml"),
        ("a: \x00", "f.yaml"),
        (b"a: 1\nb: \xff\n", "f.yaml:2"),
        ("a: " + "x" * MAX_BYTES, "f.yaml"),
    ],
    ids=lambda value: None if len(value) < 40 else "long",
)
def test_read__refuses_what_is_not_a_plain_mapping(text: str, where: str, tmp_path: Path) -> None:
    with raises(SpecError) as caught:
        parse(tmp_path / "f.yaml", text)
    assert caught.value.problems[0].where == where


@pytest.mark.parametrize("what", ["missing.yaml", "."])
def test_read__refuses_missing_files_and_folders(what: str, tmp_path: Path) -> None:
    with raises(SpecError, "spec"):
        load(tmp_path / what)


def test_load__empty_file_lacks_all_sections(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    with raises(SpecError) as caught:
        load(tmp_path / "empty.yaml")
    assert set(caught.value.keys) == {"name", "model", "data", "train", "search"}


def test_read__expands_aliases(tmp_path: Path) -> None:
    assert parse(tmp_path / "f.yaml", "a: &x [1, {b: 2}]\nc: *x\n") == {
        "a": [1, {"b": 2}],
        "c": [1, {"b": 2}],
    }


@pytest.mark.parametrize(
    "text", ["1e-3", "on", "null", "12:30", "2024-01-01", "- a", "a: b", "#x", "", "é", "1_0"]
)
def test_to_yaml__strings_read_back_as_strings(text: str, tmp_path: Path) -> None:
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
def test_override__sets_a_key(
    override: str, read_back: Callable[[SweepSpec], object], value: object, loaded: Callable[..., SweepSpec]
) -> None:
    spec = loaded(*(["search.space.warmup=null"] if "warmup" in override else []), override)
    assert read_back(spec) == value


def test_override__fixes_a_swept_field(loaded: Callable[..., SweepSpec]) -> None:
    spec = loaded("search.space.learning_rate=null", "train.learning_rate=1e-5")
    assert spec.train.learning_rate == 1e-5
    assert "learning_rate" not in spec.search.space


def test_override__applies_in_order(loaded: Callable[..., SweepSpec]) -> None:
    assert loaded("search.trials=3", "search.trials=5").search.trials == 5


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.budget.samples", "train.budget.samples"),
        ("=3", "--set"),
        ("train..seed=3", "train..seed"),
        ("train.seed=[1", "train.seed"),
        ("train.micro_batch.x=1", "train.micro_batch.x"),
        ("data.train.x.path=a", "data.train.x.path"),
        ("data.train.2.path=a", "data.train.2.path"),
        ("data.train.0=null", "data.train.0"),
        ("train.seed=-1", "train.seed"),
        ("train.sede=1", "train.sede"),
        ("train.optimizer={beta: 1}", "train.optimizer.beta"),
    ],
)
def test_override__names_the_wrong_one(
    override: str, key: str, problems: Callable[..., list[Problem]]
) -> None:
    (problem,) = problems(override)
    assert (problem.where, problem.key) == (f"--set {override}", key)


def test_load__relative_paths_start_from_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        ("org/name.ndjson", "{place}/org/name.ndjson"),
        ("org/name.zip", "{place}/org/name.zip"),
        ("a/b/c", "{place}/a/b/c"),
        ("/abs/x", "/abs/x"),
        ("plain", "{place}/plain"),
    ],
)
def test_load__tells_hub_ids_from_paths(path: str, resolved: str, place: Path) -> None:
    (place / "folder" / "here").mkdir(parents=True)
    spec = load(place / "valid.yaml", [f"model.path={path}"], check_files=False)
    assert spec.model.path == resolved.format(place=place, parent=place.parent)


def test_load__built_in_template_names_are_not_paths(loaded: Callable[..., SweepSpec]) -> None:
    assert loaded("model.chat_template=chatml").model.chat_template == "chatml"


@pytest.mark.parametrize(
    "key", [".".join("a" * 5000), "data.train.²", "data.train.-1", "data.train.9999999999"]
)
def test_override__keys_that_are_too_deep_or_no_index(key: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("data: {train: [{path: a}]}\n")
    with raises(SpecError) as caught:
        load(tmp_path / "f.yaml", [f"{key}=1"])
    (problem,) = caught.value.problems
    assert problem.key.startswith(key[:40])
