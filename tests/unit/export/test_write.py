"""``best/``: the winner's settings for sweepft, DeepSpeed, transformers and TRL, made from the ledger alone."""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from support.specs import spec_dict
from sweepft.data.order import phased_rows
from sweepft.driver.train_alone import horizon_notes
from sweepft.errors import UnsafePath
from sweepft.export import write_best
from sweepft.export.facts import BestFacts, best_facts
from sweepft.export.recipes import deepspeed_config, one_trial_spec
from sweepft.export.trl import trl_config
from sweepft.ledger import SweepState
from sweepft.spec import Mirror, from_dict
from sweepft.training.lr_schedules import lr_at

TRAIN = {
    "budget": {"samples": 100}, "micro_batch": 4, "precision": "fp32", "zero_stage": 2,
    "optimizer": {"weight_decay": 0.1}, "gradient_clipping": 0.5, "min_lr_ratio": 0.1, "decay_fraction": 0.3,
}  # fmt: skip
SCHEDULES = ("constant", "linear", "cosine", "wsd", "inverse_sqrt", "polynomial")


def spec(data: dict[str, Any] | None = None, swept: tuple[str, ...] = (), **train: Any) -> dict[str, Any]:
    more = {
        "data.strategy": {"choice": ["stacked", "phased"]},
        "data.mixture.new": {"choice": [1.0, 2.0]},
    }
    validation = [{"name": "own", "fraction": 0.1}, {"name": "general", "path": "/data/g.jsonl", "weight": 0}]
    rows = {"train": [{"path": "/data/chats.jsonl.gz"}], "validation": validation, "max_length": 256}
    space = {
        "learning_rate": {"log_uniform": [1e-5, 1e-2]},
        "batch_size": {"choice": [8, 16]},
        **{key: more[key] for key in swept if key in more},
    }
    return spec_dict(
        name="a-sweep",
        model={"path": "/models/base"},
        data=rows | (data or {}),
        train=TRAIN | train,
        search={"trials": 4, "space": space},
        early_stop={"rungs": [0.25, 0.5]},
        resources={"workers_per_trial": 2, "concurrent_trials": 3},
    )


def two_trials(
    folder: Path,
    config: dict[str, Any] | None = None,
    *,
    objective: float = 1.25,
    data: dict[str, Any] | None = None,
    domains: dict[str, int] | None = None,
    **train: Any,
) -> LedgerBuilder:
    """A run of one completed trial, and one that is worse."""
    config = config or {"learning_rate": 3e-3, "batch_size": 8}
    resolved = from_dict(spec(data, tuple(config), **train))

    def tokens(name: str, rows: int) -> dict[str, Any]:
        return {
            "path": f"/cache/{name}", "digest": name, "rows": rows, "tokens": 9 * rows, "targets": 5 * rows,
            "longest": 20, "counts": {"kept": rows}, "domains": domains or {"": rows},
        }  # fmt: skip

    prepared = {
        "train": tokens("train", 80), "test": {}, "budget_samples": 100, "order": "abc", "tokenizer": "/cache/tok",
        "validation": [{"name": n, "weight": w, "data": tokens(n, 10)} for n, w in (("own", 1.0), ("general", 0.0))],
        "vocab_size": 384, "model_vocab_size": 384, "pad_id": 0, "end_ids": [3], "overlap_dropped": 0, "warnings": [],
        "tokens": {"ends": ["<|im_end|>", "</s>"], "ends_turns": True, "template": "marked"},
        "sources": [{"path": "/data/chats.jsonl.gz", "split": "train", "builder": "json", "form": "messages"}],
    }  # fmt: skip
    sweep = LedgerBuilder(folder, samples_per_step=8, name="a-sweep", spec=resolved.to_dict(), data=prepared)
    for number, (params, value) in enumerate(((config, objective), (config | {"learning_rate": 1e-5}, 2.0))):
        train_config, trial = resolved.train_config(params, 100), f"t00{number}"
        steps = train_config.planned_steps
        sweep.trial(
            trial, start=False, params=params, train_config=train_config.to_dict(), planned_steps=steps,
            warmup_steps=train_config.warmup_steps,
        )  # fmt: skip
        sets = {
            "own": {"loss": value, "stderr": 0.05, "tokens": 50, "samples": 10},
            "general": {"loss": 3.0, "stderr": 0.1, "tokens": 50, "samples": 10},
        }
        sweep.eval(trial, value, step=steps, samples_seen=100, rung=1.0, final=True, sets=sets)
        sweep.end(trial, "completed", value, step=steps, samples_seen=100, tokens_seen=500)
    return sweep


def finished(folder: Path, *args: Any, **options: Any) -> SweepState:
    """The same sweep at its end."""
    return two_trials(folder, *args, **options).finish().close().state()


def facts_of(folder: Path, **options: Any) -> BestFacts:
    found = best_facts(finished(folder, **options))
    assert found is not None
    return found


def trial_rates(facts: BestFacts) -> list[float]:
    """The learning rate of each step, as the engine takes it."""
    return [lr_at(step, facts.train_config) for step in range(facts.train_config.planned_steps)]


def weights(run: Path, name: str = "t000") -> Path:
    folder = run / "weights" / name
    (folder / "more").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights of " + name.encode())
    (folder / "README.md").write_text("of another tool")
    (folder / "more" / "part").write_text("x")
    return folder


def test_write_best__holds_weights_and_recipes(tmp_path: Path) -> None:
    view = finished(tmp_path)
    kept = weights(tmp_path)
    folder = write_best(tmp_path, view)
    assert folder == tmp_path / "best"
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors", "more", "spec.yaml", "deepspeed.json", "trl.yaml", "train.py", "README.md", "best.json",
    }  # fmt: skip
    assert (folder / "model.safetensors").stat().st_ino == (kept / "model.safetensors").stat().st_ino, (
        "no copy"
    )
    assert (kept / "README.md").read_text() == "of another tool", (
        "what the link stands for is not written through"
    )
    known = json.loads((folder / "best.json").read_text())
    assert (known["trial_id"], known["objective"], known["stderr"]) == ("t000", 1.25, 0.05)
    card = (folder / "README.md").read_text()
    assert "base_model" not in yaml.safe_load(card.split("---")[1])
    assert "/models" not in card
    assert "/data" not in card
    assert "It ends its turns with `<|im_end|>`." in card
    assert "all tokens that end an answer (`<|im_end|>`, `</s>`), so" in card
    assert "| own | yes | 1.2500 ± 0.0500 | 10 |" in card
    assert "| general | no | 3.0000 ± 0.1000 | 10 |" in card


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/models/base", None),
        ("org/model", "org/model"),
        ("/cache/hub/models--org--model/snapshots/0a1b", "org/model"),
    ],
)
def test_write_best__names_the_base_model_as_others_know_it(
    tmp_path: Path, path: str, expected: str | None
) -> None:
    facts = best_facts(finished(tmp_path))
    assert facts is not None
    model = facts.spec.model.model_copy(update={"path": path})
    assert replace(facts, spec=facts.spec.model_copy(update={"model": model})).hub_model == expected
    kept = weights(tmp_path) / "adapter"
    kept.mkdir()
    (kept / "adapter_config.json").write_text('{"r": 8, "base_model_name_or_path": "/models/base"}')
    folder = write_best(tmp_path, SweepState.load(tmp_path))
    assert folder is not None
    written = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert written == {"r": 8, "base_model_name_or_path": None}
    assert "/models/base" in (kept / "adapter_config.json").read_text(), (
        "that of the trial can find its base model"
    )


def test_write_best__replaced_by_another_winner(tmp_path: Path) -> None:
    view = finished(tmp_path)
    kept = weights(tmp_path)
    folder = write_best(tmp_path, view)
    (kept / "model.safetensors").unlink()
    assert (folder / "model.safetensors").read_bytes() == b"weights of t000"
    view.apply({"kind": "end", "trial_id": "t001", "status": "completed", "objective": 0.5})
    weights(tmp_path, "t001")
    write_best(tmp_path, view)
    assert (folder / "model.safetensors").read_bytes() == b"weights of t001"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "ledger", "weights"], (
        "nothing is left behind"
    )


def test_write_best__without_weights_or_winner(tmp_path: Path) -> None:
    folder = write_best(tmp_path, finished(tmp_path))
    assert "weights of this trial were not kept" in (folder / "README.md").read_text()
    assert write_best(tmp_path, SweepState()) is None


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_trial_spec__gives_the_trials_train_config(tmp_path: Path, schedule: str) -> None:
    facts = facts_of(tmp_path, schedule=schedule, warmup=0.1)
    mirrored = facts.spec.model_copy(update={"mirror": Mirror(uri="s3://bucket/a-sweep")})
    alone = from_dict(one_trial_spec(replace(facts, spec=mirrored)))
    (rate,) = alone.search.space["learning_rate"].choices
    assert alone.train_config({"learning_rate": rate}, 100) == facts.train_config
    assert alone.search.trials == alone.resources.concurrent_trials == 1
    assert alone.resources.workers_per_trial == 2
    assert alone.data == facts.spec.data
    assert alone.mirror is None, "that is the sweep's"


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.07, {"steps": 3}])
def test_train_script__learning_rates_equal_the_trials(tmp_path: Path, schedule: str, warmup: Any) -> None:
    view = finished(tmp_path, schedule=schedule, warmup=warmup)
    facts = best_facts(view)
    script = (write_best(tmp_path, view) / "train.py").read_text()
    names = [n for n in ast.parse(script).body if isinstance(n, ast.FunctionDef | ast.Assign)]
    wanted = [
        n
        for n in names
        if getattr(n, "name", "") == "learning_rate" or _target(n) in ("LEARNING_RATE", "FLOOR")
    ]
    space: dict[str, Any] = {"math": math}
    exec(compile(ast.Module(wanted, []), "train.py", "exec"), space)
    for step, expected in enumerate(trial_rates(facts)):
        assert space["learning_rate"](step, facts.train_config.planned_steps) == pytest.approx(
            expected, rel=1e-12
        )


def _target(node: ast.AST) -> str:
    return getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""


def test_deepspeed_config__batch_clipping_and_stage(tmp_path: Path) -> None:
    config = deepspeed_config(facts_of(tmp_path, config={"learning_rate": 1e-3, "batch_size": 16}))
    ranks = 2
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * ranks == 16
    assert config["gradient_clipping"] == 0.5
    assert config["zero_optimization"] == {"stage": 2}
    assert config["bf16"] == {"enabled": False}


def test_deepspeed_config__probed_micro_batch_is_one(tmp_path: Path) -> None:
    assert deepspeed_config(facts_of(tmp_path, micro_batch="auto"))["train_micro_batch_size_per_gpu"] == 1


def test_deepspeed_config__packed_tokens_become_rows(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, micro_batch={"tokens": 4096})
    rows = deepspeed_config(facts)["train_micro_batch_size_per_gpu"]
    assert rows == 4096 // facts.prepared.train.longest


def test_train_script__lora(tmp_path: Path) -> None:
    lora = {"rank": 8, "alpha": 16.0, "target_modules": ["q_proj"]}
    view = finished(tmp_path, lora=lora)
    facts = best_facts(view)
    assert facts is not None
    arguments = {key: value for key, value in trl_config(facts).items() if "lora" in key or "peft" in key}
    assert arguments == {
        "use_peft": True, "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "lora_target_modules": ["q_proj"],
    }  # fmt: skip
    weights(tmp_path)
    folder = write_best(tmp_path, view)
    assert folder is not None
    script = (folder / "train.py").read_text()
    ast.parse(script)
    assert "r=8, lora_alpha=16.0, lora_dropout=0.0" in script
    assert "target_modules=['q_proj']" in script
    assert "rank 8, alpha 16, dropout 0.0, on q\\_proj" in (folder / "README.md").read_text()


def test_train_script__base_in_four_bits(tmp_path: Path) -> None:
    lora = {"quantize": "nf4", "scaling": "rslora", "modules_to_save": ["embed_tokens"]}
    weights(tmp_path)
    folder = write_best(tmp_path, finished(tmp_path, lora=lora))
    assert folder is not None
    script, card = (folder / "train.py").read_text(), (folder / "README.md").read_text()
    ast.parse(script)
    for part in (
        "bnb_4bit_quant_type='nf4'",
        "use_rslora=True",
        "modules_to_save=['embed_tokens']",
        ".dequantize(",
    ):
        assert part in script
    assert "BitsAndBytesConfig(" in card
    assert "base weights in 4 bits (nf4)" in card


@pytest.mark.parametrize(
    ("optimizer", "line", "arguments", "row"),
    [
        ("adamw", "torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPS)", {"optim": "adamw_torch"},
         "| AdamW | betas 0.9, 0.95, weight decay 0.1 |"),
        ("sgd", "torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.8)",
         {"optim": "sgd", "optim_args": "momentum=0.8"}, "| SGD | momentum 0.8, weight decay 0.1 |"),
        ("adafactor", "Adafactor(groups, lr=LEARNING_RATE, scale_parameter=False, relative_step=False)",
         {"optim": "adafactor"}, "| Adafactor | weight decay 0.1 |"),
    ],
)  # fmt: skip
def test_train_script__optimizer(
    tmp_path: Path, optimizer: str, line: str, arguments: dict[str, Any], row: str
) -> None:
    settings = {"name": optimizer, "momentum": 0.8, "weight_decay": 0.1}
    view = finished(tmp_path, optimizer=settings, zero_stage=0)
    facts = best_facts(view)
    assert facts is not None
    assert {key: value for key, value in trl_config(facts).items() if key.startswith("optim")} == arguments
    weights(tmp_path)
    folder = write_best(tmp_path, view)
    assert folder is not None
    script = (folder / "train.py").read_text()
    ast.parse(script)
    assert f"optimizer = {line}\n" in script
    assert row in (folder / "README.md").read_text()


OF_TRL = {
    "model_name_or_path", "model_revision", "datasets", "max_length", "packing", "assistant_only_loss",
    "completion_only_loss", "chat_template_path",
}  # fmt: skip


def test_trl_config__arguments_exist(tmp_path: Path) -> None:
    source = Path(__import__("transformers").__file__).with_name("training_args.py")
    (found,) = [
        n
        for n in ast.parse(source.read_text()).body
        if isinstance(n, ast.ClassDef) and n.name == "TrainingArguments"
    ]
    known = {n.target.id for n in found.body if isinstance(n, ast.AnnAssign)}
    config = trl_config(facts_of(tmp_path))
    assert set(config) - known <= OF_TRL
    assert config["max_steps"] == math.ceil(100 / 8)
    assert config["datasets"] == [
        {"path": "json", "data_files": "/data/chats.jsonl.gz", "columns": ["messages"]}
    ]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_trl_config__learning_rates_equal_the_trials(tmp_path: Path, schedule: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    facts = facts_of(tmp_path, schedule=schedule, warmup=0.1)
    config = trl_config(facts)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config["learning_rate"])
    scheduler = transformers.get_scheduler(
        config["lr_scheduler_type"], optimizer, config["warmup_steps"], config["max_steps"],
        scheduler_specific_kwargs=config.get("lr_scheduler_kwargs"),
    )  # fmt: skip
    for step, expected in enumerate(trial_rates(facts)):
        if schedule != "wsd" or step >= facts.train_config.warmup_steps:  # there, wsd warms up from its floor
            assert scheduler.get_last_lr()[0] == pytest.approx(expected, rel=1e-9, abs=1e-15)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("samples", "schedule", "said"),
    [
        (100, "cosine", []),
        (400, "cosine", ["longer", "stretches", "warmup changes", "tends to fall"]),
        (400, "constant", ["longer", "warmup changes", "tends to fall"]),
        (50, "wsd", ["shorter", "shrinks", "warmup changes", "tends to rise"]),
    ],
)
def test_horizon_notes__for_another_budget(
    tmp_path: Path, samples: int, schedule: str, said: list[str]
) -> None:
    view = finished(tmp_path, schedule=schedule, warmup=0.1)
    known = json.loads((write_best(tmp_path, view) / "best.json").read_text())
    alone = one_trial_spec(best_facts(view))
    alone["train"]["budget"] = {"samples": samples}
    notes = horizon_notes(from_dict(alone), known)
    assert len(notes) == len(said)
    for words, note in zip(said, notes, strict=True):
        assert words in note


def test_write_best__symbolic_links_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Any) -> None:
        raise OSError("no links here")

    view = finished(tmp_path)
    kept = weights(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    folder = write_best(tmp_path, view)
    assert (folder / "model.safetensors").resolve() == (kept / "model.safetensors").resolve()


PHASES = [{"domains": ["known"], "share": 0.5}, {"domains": ["new"]}]


def test_train_script__phased_order(tmp_path: Path) -> None:
    """The functions it holds by their source give the trial's rows, at any number of samples."""
    rows = {"known": 30, "new": 50}
    config = {"learning_rate": 3e-3, "batch_size": 8, "data.strategy": "phased", "data.mixture.new": 2.0}
    view = finished(tmp_path, config, data={"phases": PHASES, "replay": 0.25}, domains=rows)
    folder = write_best(tmp_path, view)
    assert folder is not None
    facts = best_facts(view)
    assert facts is not None
    tree = ast.parse((folder / "train.py").read_text())
    names = ("permutation", "phase_ends", "phased_rows", "interleaved", "passes", "PHASES")
    wanted = [n for n in tree.body if getattr(n, "name", "") in names or _target(n) in names]
    space: dict[str, Any] = {"np": np}
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module(future + wanted, []), "train.py", "exec"), space)
    domains = np.random.default_rng(0).permutation(np.repeat([0, 1], list(rows.values())))
    for samples in (100, 250):
        found = space["phased_rows"](domains, space["PHASES"], samples, 7)
        assert (found == phased_rows(domains, facts.phases, samples, 7)).all()
    card = (folder / "README.md").read_text()
    assert (
        "| order of the data | phased: known, then new; 25% of later phases replays earlier ones; new x 2 |"
        in card
    )
    assert "phases, weights or choice of domains are not reproduced" in (folder / "trl.yaml").read_text()
    alone = from_dict(one_trial_spec(facts))
    assert alone.train_config({"learning_rate": 3e-3}, 100) == facts.train_config


def test_train_script__stacked_has_no_phases(tmp_path: Path) -> None:
    config = {"learning_rate": 3e-3, "batch_size": 8, "data.strategy": "stacked", "data.mixture.new": 1.0}
    view = finished(tmp_path, config, data={"phases": PHASES}, domains={"known": 30, "new": 50})
    folder = write_best(tmp_path, view)
    assert folder is not None
    script = (folder / "train.py").read_text()
    ast.parse(script)
    assert "phase" not in script.lower()
    facts = best_facts(view)
    assert facts is not None
    assert from_dict(one_trial_spec(facts)).train_config({"learning_rate": 3e-3}, 100) == facts.train_config


def test_write_best__links_nothing_private(tmp_path: Path) -> None:
    """A copied run folder: its winner's weights are a link, or hold links; the ledger names any folder's tokenizer."""
    run, private = tmp_path / "run", tmp_path / "private"
    private.mkdir()
    for name in ("id_ed25519", "tokenizer.json", "chat_template.jinja", "notes.txt"):
        (private / name).write_text("x")
    view = finished(run)
    (run / "weights").mkdir()
    (run / "weights" / "t000").symlink_to(private)
    with raises(UnsafePath, "run_dir.link"):
        write_best(run, view)
    (run / "weights" / "t000").unlink()
    kept = weights(run)
    (kept / "key").symlink_to(private / "id_ed25519")
    (kept / "more2").symlink_to(private)
    folder = write_best(run, view)
    assert not {"key", "more2", "id_ed25519"} & {p.name for p in folder.iterdir()}
    shutil.rmtree(run / "weights")
    view.header["data"]["tokenizer"] = str(private)
    folder = write_best(run, view)
    assert {p.name for p in folder.iterdir()} & {p.name for p in private.iterdir()} == {
        "tokenizer.json", "chat_template.jinja",
    }  # fmt: skip


HOSTILE = 'x"""\nimport os; os.system("no")\n"""\r\n\'\'\'\u2028{{ 7 * 7 }}\x1b]0;t\x07 {% raw %} # : - \\'


def test_write_best__texts_of_the_ledger_are_data_in_generated_files(tmp_path: Path) -> None:
    """The generated program has the same statements, whatever the texts are: they are string constants in it."""
    view = finished(tmp_path)
    plain = ast.parse((write_best(tmp_path, view) / "train.py").read_text())
    view.header["name"] = HOSTILE
    view.header["versions"] = {HOSTILE: HOSTILE}
    for place in (view.header["spec"], view.header["data"]):
        replace_texts(place)
    view.trials["t000"].trial_id = "t000"
    folder = write_best(tmp_path, view)
    hostile = ast.parse((folder / "train.py").read_text())
    shape = [type(node).__name__ for node in hostile.body]
    assert shape == [type(node).__name__ for node in plain.body]
    assert {c for c in texts_of(hostile) if "os.system" in c} == {HOSTILE}
    for name in ("spec.yaml", "trl.yaml"):
        assert isinstance(yaml.safe_load((folder / name).read_text()), dict)
    assert yaml.safe_load((folder / "spec.yaml").read_text())["data"]["train"][0]["path"] == HOSTILE


def replace_texts(place: Any) -> None:
    """The hostile text in place of paths and names that the schema does not restrict."""
    for key, value in list(place.items()) if isinstance(place, dict) else []:
        if isinstance(value, str) and key in ("path", "tokenizer", "split", "revision", "chat_template"):
            place[key] = HOSTILE
        for part in value if isinstance(value, list) else [value]:
            replace_texts(part)


def texts_of(tree: ast.AST) -> list[str]:
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
