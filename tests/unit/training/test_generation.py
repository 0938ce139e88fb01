"""What data preparation knows about the end of an answer reaches the exported folder and the exams.

A tiny model learns answers by heart; then the exported folder alone has to say them and stop, and the exams inside the
ranks have to score them as right, whatever the batch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.memorised import (
    ANSWERS,
    QUESTIONS,
    base_model,
    chat_rows,
    generated,
    sweep_spec,
    trained,
)
from support.tiny import tiny_config
from sweepft.evaluation import EvalTask
from sweepft.training.generation import set_generation

SPACED_END = """\
{%- for m in messages %}
{%- if m['role'] == 'user' %}{{- '[INST] ' + m['content'] + ' [/INST]' }}
{%- else %}{{- ' ' + m['content'] + ' ' + eos_token }}{%- endif %}
{%- endfor %}"""
PHI = """\
{%- for m in messages %}{{- '<|' + m['role'] + '|>\\n' + m['content'] + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- else %}{{- eos_token }}{%- endif %}"""
UNTIDY = {  # as published configs are: settings without effect, and limits that are not for a tuned model
    "do_sample": False, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 2048, "max_length": 30,
    "min_new_tokens": 12, "suppress_tokens": [1], "stop_strings": ["#"],
}  # fmt: skip
NEXT_TURN = """\
{%- for m in messages %}{{- '<|' + m['role'] + '|>\\n' + m['content'] }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"""
RENAMED = {"<|im_start|>": "<|other|>", "<|im_end|>": "</s>"}

FAMILIES: dict[str, dict[str, Any]] = {
    "end-differs-from-eos": {"base": {"eos": "<|endoftext|>", "generation": UNTIDY}, "end": "<|im_end|>"},
    "end-is-eos": {"base": {}, "end": "<|im_end|>"},
    "space-and-eos": {"base": {"template": SPACED_END, "eos": "</s>"}, "end": "</s>"},
    "end-then-eos": {"base": {"template": PHI, "eos": "<|endoftext|>"}, "end": "<|im_end|>", "passes": 800},
    "pad-is-eos": {"base": {"pad": "<|im_end|>"}, "end": "<|im_end|>"},
    "pad-is-end": {"base": {"eos": "<|endoftext|>", "pad": "<|im_end|>"}, "end": "<|im_end|>"},
    "chatml-adds-tokens": {
        "base": {"template": None, "eos": "</s>", "rename": RENAMED, "adds_bos": True},
        "model": {"chat_template": "chatml"}, "end": "<|im_end|>",
    },
    "plain": {"base": {"template": None, "eos": "</s>"}, "model": {"chat_template": "plain"}, "end": "</s>"},
    "text": {"base": {"template": None, "eos": "</s>", "adds_bos": True}, "end": "</s>"},
    "next-turn-is-end": {
        "base": {
            "template": NEXT_TURN, "eos": "<|endoftext|>", "generation": {"eos_token_id": [1, 2]},
            "rename": {"<|im_start|>": "<|user|>", "<|im_end|>": "<|assistant|>"},
        },
        "end": "<|user|>", "passes": 1200,  # an adapter needs more of them: every prompt holds the end, too
    },
    "tokenizer-adds-bos": {"base": {"eos": "<|endoftext|>", "adds_bos": True}, "end": "<|im_end|>"},
}  # fmt: skip
USUAL = ("end-differs-from-eos", "space-and-eos", "chatml-adds-tokens")  # of the quick tests
LORA = {"rank": 16, "alpha": 32.0, "target_modules": "all-linear"}
TASK = """\
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: UNTIL, do_sample: false, max_gen_toks: 40}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, regexes_to_ignore: ["^ ", " $"]}
"""
CHOICE = """\
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def small_model(**generation: Any) -> Any:
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_config(tiny_config("llama", 384, pad_token_id=None))
    model.generation_config = GenerationConfig(**generation)
    return model


@pytest.mark.parametrize(
    ("generation", "kept"),
    [
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9, "top_k": 20}, {"do_sample": False}),
        ({"temperature": 0.6}, {}),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9}),
        ({"max_length": 30, "max_new_tokens": 2048}, {"max_length": 30, "max_new_tokens": 2048}),
        ({"min_length": 9, "min_new_tokens": 9, "stop_strings": ["#"], "forced_eos_token_id": 1}, {}),
        ({"suppress_tokens": [3, 9], "begin_suppress_tokens": [3], "bad_words_ids": [[3], [3, 4]]},
         {"suppress_tokens": [9], "bad_words_ids": [[3, 4]]}),
        ({"early_stopping": True, "length_penalty": 2.0}, {}),
        ({"num_beams": 2, "early_stopping": True}, {"num_beams": 2, "early_stopping": True}),
        ({"repetition_penalty": 1.05, "bos_token_id": 7}, {"repetition_penalty": 1.05, "bos_token_id": 7}),
        ({"output_scores": True, "bos_token_id": 7}, {"bos_token_id": 7}),
    ],
)  # fmt: skip
def test_set_generation__saves_whatever_the_base_model_had(
    generation: dict[str, Any], kept: dict[str, Any], tmp_path: Path
) -> None:
    model = small_model(**generation)
    set_generation(model, (3, 1), 0)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    saved.pop("transformers_version")
    assert saved == {"eos_token_id": [3, 1], "pad_token_id": 0, **kept}
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (3, 0)


def test_set_generation__one_end_that_fills_batches_too() -> None:
    model = small_model()
    set_generation(model, (3,), 3)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (3, 3)
    assert model.config.pad_token_id is None


def exam(runner: Any, tokenizer: str, folder: Path) -> dict[tuple[str, int, bool], float]:
    """Scores by task, batch size and whether the chat template is used."""
    from sweepft.evaluation.harness import score
    from sweepft.training.inference import plain_model

    folder.mkdir()
    items = [
        {"question": q, "answer": a, "choices": [a, *(b for b in ANSWERS[:3] if b != a)]}
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "colours.yaml").write_text(TASK.replace("UNTIL", "[]"))
    (folder / "until.yaml").write_text(TASK.replace("UNTIL", '["\\n\\n"]').replace("colours", "until"))
    (folder / "choice.yaml").write_text(CHOICE)
    found = {}
    tasks = [("colours", True), ("until", True), ("choice", True), ("choice", False)]
    if runner.config.model_path.endswith("/text"):
        tasks = tasks[-1:]
    with plain_model(runner.zero) as model:
        for name, chat in tasks:
            for batch in (1, 8, None):
                task = EvalTask(name, (str(folder),), chat_template=chat, batch_size=batch)
                (value,) = (
                    m["value"] for m in score(model, tokenizer, task, sharded=False)["metrics"].values()
                )
                found[name, batch, chat] = value
    return found


def examined(runner: Any, tokenizer: str, run: Path) -> Any:
    return exam(runner, tokenizer, run / "tasks")


def rows_of(name: str) -> list[dict[str, Any]]:
    if name != "text":
        return chat_rows()
    return [{"text": f"{q} {a}"} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]


CASES = [
    pytest.param(
        name,
        lora,
        id=f"{name}-{'lora' if lora else 'full'}",
        marks=[] if name in USUAL and lora is None else [pytest.mark.full],
    )
    for name in FAMILIES
    for lora in (None, LORA)
]


@pytest.mark.parametrize(("name", "lora"), CASES)
def test_export__alone_ends_its_answers_and_exams_agree(name: str, lora: Any, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    end, family = FAMILIES[name]["end"], FAMILIES[name]
    base = base_model(tmp_path / name, **family["base"])
    passes = family.get("passes", 400) if lora else 200
    spec = sweep_spec(base, rows_of(name), lora=lora, passes=passes, **family.get("model", {}))
    done = trained(spec, tmp_path / "run", examined)
    for folder, batch in [
        (done.folder, 1),
        (done.folder, 8),
        *([(done.folder / "adapter", 8)] if lora else []),
    ]:
        said = generated(folder, QUESTIONS, batch, tokenizer=done.folder, chat=name != "text")
        assert [text.strip().replace(f" {end}", end) for text in said] == [a + end for a in ANSWERS]
    texts = [path for path in done.folder.rglob("*") if path.suffix in (".json", ".jinja")]
    naming = {path.name for path in texts if str(tmp_path) in path.read_text()}
    assert naming == (set() if lora is None else {"adapter_config.json"}), "the adapter finds its base model"
    scores = done.then
    assert all(value == 1.0 for (task, _, _), value in scores.items() if task != "choice"), scores
    for task, _, chat in scores:
        assert scores[task, 1, chat] == scores[task, 8, chat] == scores[task, None, chat]
    assert not any("nothing teaches a stop" in warning for warning in done.prepared.warnings)
