"""Preparing data end to end: real tokenizer, real child process, real files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import specs
from support.errors import raises
from support.tiny import tiny_data, tiny_rows
from sweepft.data import Prepared, SampleOrder, TokenSet, prepare, prepare_in_child
from sweepft.data.cache import write_token_set
from sweepft.data.prepare import budget_in_samples
from sweepft.errors import DataError, SweepftError
from sweepft.spec.sections import Budget
from sweepft.spec.sweep import SweepSpec


def spec_for(model: Path, file: Path, **data: Any) -> SweepSpec:
    validation = [{"name": "skills", "fraction": 0.1}]
    return specs.spec(
        model={"path": str(model)},
        data={"train": [{"path": str(file)}], "validation": validation, "max_length": 128} | data,
        train={"budget": {"epochs": 2.0}, "micro_batch": 4},
    )


def with_model(spec: SweepSpec, **model: Any) -> SweepSpec:
    return spec.model_copy(update={"model": spec.model.model_copy(update=model)})


@pytest.fixture
def spec(tiny_model_dir: Path, tiny_data_file: Path) -> SweepSpec:
    return spec_for(tiny_model_dir, tiny_data_file)


@pytest.fixture
def base_model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model as base models come: no chat template, no pad token."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    core = folder / "tokenizer.json"
    core.write_text(core.read_text().replace("<|pad|>", "<|other|>"))
    return folder


def test_prepare__targets_are_the_assistant_turns(spec: SweepSpec, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    prepared = prepare(spec, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(prepared.tokenizer)
    tokens = TokenSet(prepared.train.path)
    answers = {row["messages"][1]["content"] for row in tiny_rows(96)}
    seen = set()
    for i in range(len(tokens)):
        ids, mask = tokens.row(i)
        said = tokenizer.decode(ids[mask])
        assert said.endswith("<|im_end|>")
        seen.add(said.removesuffix("<|im_end|>"))
        assert tokens.targets[i] == mask.sum()
    assert seen <= answers
    [held] = prepared.validation
    assert (prepared.train.rows, held.data.rows, held.weight) == (86, 10, 1.0)
    assert (prepared.budget_samples, prepared.warnings) == (172, ())
    assert prepared.order == SampleOrder(86, 0, tokens.digest).digest
    assert prepared.vocab_size == prepared.model_vocab_size == len(tokenizer)
    assert (prepared.pad_id, prepared.end_ids) == (0, (3,))


def test_prepare_in_child__same_result_without_torch(spec: SweepSpec, tmp_path: Path) -> None:
    code = (
        "import sys, json; from sweepft.data import prepare_in_child; from sweepft.spec.sweep import SweepSpec\n"
        "spec = SweepSpec.model_validate(json.load(sys.stdin))\n"
        "print(prepare_in_child(spec, sys.argv[1]).model_dump_json())\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'ray') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        input=json.dumps(spec.to_dict()),
        capture_output=True,
        text=True,
        check=True,
    )
    shown, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert Prepared.model_validate_json(shown) == prepare(spec, tmp_path)


def test_prepare__second_time_uses_the_memo(
    spec: SweepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(spec, tmp_path)

    def must_not_start(*_: Any, **__: Any) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(subprocess, "Popen", must_not_start)
    assert prepare_in_child(spec, tmp_path) == first
    shutil.rmtree(first.train.path)  # someone cleared a cache
    with pytest.raises(AssertionError, match="child"):
        prepare_in_child(spec, tmp_path)


def test_prepare__digest_depends_on_tokens_only(tiny_model_dir: Path, tmp_path: Path) -> None:
    data = tiny_data(tmp_path / "d", rows=40)
    spec = spec_for(tiny_model_dir, data)
    digest = prepare(spec, tmp_path / "c").train.digest
    moved = tiny_data(tmp_path / "elsewhere", rows=40)
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    assert prepare(spec_for(model, moved), tmp_path / "c").train.digest == digest
    others = [
        spec_for(tiny_model_dir, tiny_data(tmp_path / "e", rows=40, seed=1)),
        spec_for(tiny_model_dir, data, max_length=100),
        spec_for(tiny_model_dir, data, over_length="truncate"),
        spec_for(tiny_model_dir, data, seed=1),
        spec_for(tiny_model_dir, data, train=[{"path": str(data), "domain": "x"}]),
        with_model(spec, chat_template="plain"),
    ]
    digests = [prepare(other, tmp_path / "c").train.digest for other in others]
    assert len({digest, *digests}) == len(others) + 1


def test_prepare__notices_an_edited_file(spec: SweepSpec, tiny_model_dir: Path, tmp_path: Path) -> None:
    data = tiny_data(tmp_path, rows=40)
    spec = spec_for(tiny_model_dir, data)
    first = prepare(spec, tmp_path / "c")
    data.write_text(data.read_text().replace("What", "Say what", 1))
    assert prepare(spec, tmp_path / "c").train.digest != first.train.digest


def test_prepare__base_model_without_template_or_pad(
    base_model: Path, tiny_data_file: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    spec = spec_for(base_model, tiny_data_file)
    with raises(DataError, "model.chat_template") as caught:
        prepare_in_child(spec, tmp_path / "c")
    assert "chatml or plain" in caught.value.problems[0].remedy
    prepared = prepare_in_child(with_model(spec, chat_template="plain"), tmp_path / "c")
    assert prepared.model_vocab_size is not None
    assert prepared.vocab_size == prepared.model_vocab_size + 1, "the pad token needs a new embedding"
    assert prepared.pad_id == prepared.model_vocab_size
    assert "no pad token" in prepared.warnings[0]
    saved = AutoTokenizer.from_pretrained(prepared.tokenizer)
    assert (len(saved), saved.pad_token_id) == (prepared.vocab_size, prepared.pad_id)
    asked = [{"role": "user", "content": "x"}]
    shown = saved.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert shown == "### Instruction:\nx\n\n### Response:\n"


def test_prepare__text_rows_need_no_template(base_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps({"text": f"row number {i}"}) + "\n" for i in range(30)))
    prepared = prepare(spec_for(base_model, file), tmp_path / "c")
    assert prepared.train.rows == 27
    assert prepared.train.targets == prepared.train.tokens - 27


def test_prepare_in_child__raises_the_childs_problems(tiny_model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"text": "x"}\n{"broken\n')
    with pytest.raises(DataError) as caught:
        prepare_in_child(spec_for(tiny_model_dir, file), tmp_path / "c")
    assert [p.where for p in caught.value.problems] == [f"{file}:2"]


def test_prepare_in_child__reports_the_output_of_a_dead_child(
    spec: SweepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho the last words >&2\nexit 9\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with raises(SweepftError, "data.child") as caught:
        prepare_in_child(spec, tmp_path / "c")
    assert "the last words" in str(caught.value)


def test_prepare__refuses_rows_longer_than_the_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps({"text": f"{i} " * 200}) + "\n" for i in range(9)))
    with raises(DataError, "data.max_length") as caught:
        prepare(spec_for(tiny_model_dir, file, max_length=4096), tmp_path / "c")
    assert "data.max_length: 256" in caught.value.problems[0].remedy


def test_prepare__refuses_a_set_without_usable_rows(
    tiny_model_dir: Path, tiny_data_file: Path, tmp_path: Path
) -> None:
    with raises(DataError, "data.train") as caught:
        prepare(spec_for(tiny_model_dir, tiny_data_file, max_length=3), tmp_path / "c")
    assert "none of 86 rows can be used: 86 are longer than data.max_length" in str(caught.value)


def test_prepare__warns_of_rows_left_out(tiny_model_dir: Path, tiny_data_file: Path, tmp_path: Path) -> None:
    prepared = prepare(spec_for(tiny_model_dir, tiny_data_file, max_length=48, max_lost=0.9), tmp_path / "c")
    counts = prepared.train.counts
    assert counts["kept"] + counts["over_length"] == 86
    assert f"{counts['over_length']} of 86 rows are longer than data.max_length" in " ".join(
        prepared.warnings
    )


def test_prepare__test_sets_are_excluded_and_not_tokenised(tiny_model_dir: Path, tmp_path: Path) -> None:
    train = tiny_data(tmp_path, rows=40, name="train.jsonl")
    test = tmp_path / "test.jsonl"
    test.write_text("".join(train.read_text().splitlines(keepends=True)[:5]))
    test_set = {"test": [{"name": "t", "path": str(test)}]}
    with raises(DataError, "data.overlap"):
        prepare(spec_for(tiny_model_dir, train, **test_set), tmp_path / "c")
    prepared = prepare(spec_for(tiny_model_dir, train, overlap="drop", **test_set), tmp_path / "c")
    assert (prepared.test, prepared.overlap_dropped) == ({"t": 5}, 5)
    assert len(list((tmp_path / "c").glob("tokens-*"))) == 2


def test_prepare__model_folder_without_tokenizer(tmp_path: Path, tiny_data_file: Path) -> None:
    (tmp_path / "model").mkdir()
    with raises(DataError, "model.path"):
        prepare(spec_for(tmp_path / "model", tiny_data_file), tmp_path / "c")


@settings(deadline=None, max_examples=40)
@given(
    targets=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    tokens=st.integers(1, 400),
    seed=st.integers(0, 9),
)
def test_budget_in_samples__tokens(tmp_path_factory: Any, targets: list[int], tokens: int, seed: int) -> None:
    """The samples are the fewest, along the order, that hold that many target tokens."""
    rows = [(np.zeros(n + 1, int), np.arange(n + 1) > 0, None) for n in targets]
    data = write_token_set(tmp_path_factory.mktemp("b") / "set", rows, digest="d", vocab_size=9)
    order = SampleOrder(len(rows), seed)
    samples = budget_in_samples(Budget(tokens=tokens), data, order)
    along = data.targets[order.indices(0, samples)]
    assert along.sum() >= tokens > along[:-1].sum()


@pytest.mark.parametrize(
    ("budget", "samples"),
    [({"samples": 7}, 7), ({"epochs": 1.0}, 10), ({"epochs": 0.25}, 3), ({"epochs": 2.1}, 21)],
)
def test_budget_in_samples__samples_and_epochs(tmp_path: Path, budget: dict[str, Any], samples: int) -> None:
    rows = [(np.zeros(3, int), np.arange(3) > 0, None)] * 10
    data = write_token_set(tmp_path / "set", rows, digest="d", vocab_size=9)
    assert budget_in_samples(Budget(**budget), data, SampleOrder(10, 0)) == samples


SHARED = Path(__file__).parents[4] / "shared"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the development data at ../shared")
def test_prepare__real_data_and_model(tmp_path: Path) -> None:
    spec = spec_for(
        SHARED / "models/tiny-llama-t0",
        SHARED / "data/gsm8k_train.jsonl.gz",
        validation=[
            {"name": "math", "fraction": 0.03},
            {
                "name": "retention",
                "path": str(SHARED / "data/t0_instructions.jsonl.gz"),
                "limit": 200,
                "weight": 0.0,
            },
        ],
        test=[{"name": "gsm8k", "path": str(SHARED / "data/gsm8k_test.jsonl.gz")}],
        max_length=512,
    )
    prepared = prepare(spec, tmp_path)
    assert (
        prepared.train.rows + prepared.train.counts["over_length"] + prepared.validation[0].data.rows == 7473
    )
    assert prepared.validation[1].data.rows == 200
    assert prepared.test == {"gsm8k": 1319}
    assert len(TokenSet(prepared.train.path).domain_names) == 1


def test_prepare__uses_an_unused_pad_token(base_model: Path, tiny_data_file: Path, tmp_path: Path) -> None:
    core = base_model / "tokenizer.json"
    core.write_text(core.read_text().replace("<|other|>", "<pad>"))
    prepared = prepare(
        with_model(spec_for(base_model, tiny_data_file), chat_template="plain"), tmp_path / "c"
    )
    assert prepared.vocab_size == prepared.model_vocab_size
    assert "<pad> of its vocabulary" in prepared.warnings[0]
