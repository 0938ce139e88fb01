"""Write ``best/``: the winner's weights as a model folder, and the files to train it again.

The weights are not copied: ``best/`` holds hard links to the files in ``weights/TRIAL``, and keeps them when the run
continues and another trial becomes the best.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

import sweepft
from sweepft.bounded_json import read_json_file
from sweepft.data.generation_marks import TRAINING_TEMPLATE
from sweepft.data.order import EXPORTED
from sweepft.errors import StorageError, SweepftError
from sweepft.export.facts import BestFacts, best_facts, facts_of
from sweepft.export.recipes import deepspeed_config, one_trial_spec
from sweepft.export.trl import TRAINING_TOKENIZER, needs_tokenizer, trl_config, trl_differences
from sweepft.files import atomic_folder, atomic_write, inside
from sweepft.ledger import SweepState, scores_of
from sweepft.training.generation import set_generation
from sweepft.visible import code, markdown, one_line

FACTS_FILE: Final = "best.json"
"""The trial's params and results, for programs."""

_OF_TOKENIZER: Final = re.compile(
    r"(tokenizer|added_tokens|special_tokens|vocab|merges|spiece|sentencepiece)[\w.]*\.(json|txt|model)"
    r"|additional_chat_templates|[\w.-]+\.jinja"
)
"""Files of a tokenizer. Where they lie is said by the ledger, which may name any folder of this machine."""


def write_best(run_dir: str | os.PathLike[str], view: SweepState) -> Path | None:
    """Write ``best/`` for the best completed trial, atomically; an older one is replaced.

    Args:
        run_dir: The run folder.
        view: The sweep.
    Returns:
        The folder, or None while no trial has completed.
    Raises:
        StorageError: If it cannot be written.
    """
    facts = best_facts(view)
    if facts is None:
        return None
    folder = Path(run_dir) / "best"
    weights = inside(run_dir, "weights", facts.trial.trial_id)
    has_weights = weights.is_dir()
    tokenizer = Path(facts.prepared.tokenizer)
    has_tokenizer = has_weights or (tokenizer / "tokenizer.json").is_file()
    try:
        with atomic_folder(folder) as new:
            if has_weights:
                _link(weights, new)
            elif has_tokenizer:
                _link(tokenizer, new, _OF_TOKENIZER)
            _name_base_model(new / "adapter" / "adapter_config.json", facts.hub_model)
            if needs_tokenizer(facts) and (new / TRAINING_TEMPLATE).is_file():
                _training_tokenizer(new)
            for name, text in _texts(facts, view, has_weights, has_tokenizer).items():
                atomic_write(new / name, text, mode=0o666, sync=False)
    except OSError as e:
        raise StorageError(
            f"{folder}: cannot be written: {e.strerror or e}\n  the run is complete without it"
        ) from e
    return folder


def write_trial_spec(folder: Path, run_dir: Path, trial_id: str) -> Path:
    """Write the spec and facts of any trial of a run, completed or not: what ``sweepft train --trial`` trains.

    Args:
        folder: Where ``spec.yaml`` and `FACTS_FILE` are written; exists.
        run_dir: The run folder.
        trial_id: The trial.
    Returns:
        The spec's path.
    Raises:
        LedgerError, LedgerCorrupt, LedgerVersion: If there is no ledger or it cannot be trusted.
        SweepftError: If the run has no such trial.
    """
    view = SweepState.load(run_dir)
    trial = view.trials.get(trial_id)
    if trial is None:
        known = list(view.trials)
        raise SweepftError(
            f"{run_dir}: no trial {trial_id!r}\n  name one of "
            + (
                ", ".join(known[:8]) + (" ..." if len(known) > 8 else "")
                if known
                else "another run: it has none"
            ),
            key="trial.unknown",
        )
    facts = facts_of(view, trial)
    path = folder / "spec.yaml"
    atomic_write(path, _yaml(one_trial_spec(facts)))
    atomic_write(folder / FACTS_FILE, json.dumps(_summary(facts, view), allow_nan=False))
    return path


def _link(source: Path, target: Path, names: re.Pattern[str] | None = None) -> None:
    """Every file of a folder as a hard link; where the file system has none, as a symbolic one.

    Symbolic links in it are left out: what they point to may be private.

    Args:
        source, target: The folders.
        names: Of the files and folders wanted; None for all of them.
    """
    for path in sorted(source.iterdir()):
        place = target / path.name
        if path.is_symlink() or (names is not None and not names.fullmatch(path.name)):
            continue
        if path.is_dir():
            place.mkdir(exist_ok=True)
            _link(path, place, names)
        elif path.is_file():
            _link_file(path, place)


def _link_file(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except FileNotFoundError:
        raise  # replaced by a newer best trial while the sweep runs
    except OSError:
        place.symlink_to(path.resolve())


def _name_base_model(config: Path, hub_model: str | None) -> None:
    """The hub id of the base model, or nothing, in place of its folder on this machine."""
    if not config.is_file():
        return
    fields = read_json_file(config) | {"base_model_name_or_path": hub_model}
    atomic_write(config, json.dumps(fields, indent=2) + "\n")  # a file of its own: the link's is in weights/


def _training_tokenizer(folder: Path) -> None:
    """The tokenizer alone, with the marked chat template, in a folder of its own."""
    own = folder / TRAINING_TOKENIZER
    own.mkdir()
    for path in sorted(folder.glob("*token*.json")):
        _link_file(path, own / path.name)
    _link_file(folder / TRAINING_TEMPLATE, own / "chat_template.jinja")


def _texts(facts: BestFacts, view: SweepState, has_weights: bool, has_tokenizer: bool) -> dict[str, str]:
    """The files beside the weights, by name."""
    values = _values(facts, view) | {"has_weights": has_weights, "has_tokenizer": has_tokenizer}
    about = f"The best trial of {view.name}, {facts.trial.trial_id}: sweepft train spec.yaml"
    return {
        "spec.yaml": _comments([about]) + _yaml(one_trial_spec(facts)),
        "deepspeed.json": json.dumps(deepspeed_config(facts), indent=2) + "\n",
        "trl.yaml": _trl_yaml(facts),
        "train.py": _templates().get_template("train.py.jinja").render(values),
        "README.md": _templates().get_template("README.md.jinja").render(values),
        FACTS_FILE: json.dumps(_summary(facts, view), indent=2, allow_nan=False) + "\n",
    }


def _trl_yaml(facts: BestFacts) -> str:
    lines = [
        "cd to this folder, then: trl sft --config trl.yaml",
        *trl_differences(facts),
    ]
    return _comments(lines) + _yaml(trl_config(facts))


def _comments(lines: Sequence[str]) -> str:
    """Comments of a YAML file; nothing in a line can end it."""
    return "".join(f"# {one_line(line)}\n" for line in lines)


def _summary(facts: BestFacts, view: SweepState) -> dict[str, Any]:
    return {
        "trial_id": facts.trial.trial_id,
        "sweep": view.name,
        "sweepft_version": sweepft.__version__,
        "objective": facts.trial.objective,
        "stderr": facts.stderr,
        "best_step": facts.best_step,
        "validation": facts.validation,
        "params": facts.trial.params,
        "budget_samples": view.budget_samples,
        "planned_steps": facts.train_config.planned_steps,
        "warmup_steps": facts.train_config.warmup_steps,
        "data_order": facts.trial.data_order,
    }


def _values(facts: BestFacts, view: SweepState) -> dict[str, Any]:
    """Values of the templates."""
    warmup = facts.train_config.warmup
    counts = {
        status: sum(t.replicate_of is None for t in view.with_status(status))
        for status in ("completed", "stopped", "diverged", "failed")
    }
    return {
        "f": facts,
        "s": facts.train_config,
        "spec": facts.spec,
        "data": facts.prepared,
        "phases": facts.phases,
        "tokens": facts.prepared.tokens,
        "trl_differences": list(trl_differences(facts)),
        "training_template": TRAINING_TEMPLATE,
        "generation_source": inspect.getsource(set_generation),
        "order_source": "\n\n".join(inspect.getsource(function) for function in EXPORTED),
        "swept_data": any(key.startswith("data.") for key in facts.trial.params),
        "swept_optimizer": any(key.startswith("optimizer.") for key in facts.trial.params),
        "swept_lora": any(key.startswith("lora.") for key in facts.trial.params),
        "validation_paths": {h.name: h.data.path for h in facts.prepared.validation},
        "sweep": view.name,
        "budget_samples": view.budget_samples,
        "versions": view.header.get("versions") or {},
        "counts": {k: n for k, n in counts.items() if n},
        "trials": sum(t.replicate_of is None for t in view.trials.values()),
        **_finals(view, facts.trial.trial_id),
        "warmup_fraction": warmup if isinstance(warmup, float) else None,
        "trial_seconds": sum(facts.trial.costs.values()),
    }


def _finals(view: SweepState, trial_id: str) -> dict[str, Any]:
    """Scores and replicates of the winner, from after the search."""
    base = scores_of(view, None)
    rows = []
    for name, row in scores_of(view, trial_id).items():
        before = base[name]["metrics"] if name in base else {}
        for metric, found in row["metrics"].items():
            known = before[metric]["value"] if metric in before else None
            rows.append({"name": name, "metric": metric, "base": known, **found})
    again = [t.objective for t in view.trials.values() if t.replicate_of == trial_id]
    rank_by = (view.finalists or {"rank_by": {}})["rank_by"]
    return {
        "scores": rows,
        "seeds": [value for value in again if value is not None],
        "finalists": len((view.finalists or {"chosen": ()})["chosen"]),
        "ranked_by": ", ".join(rank_by),
    }


@lru_cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("sweepft.export", "templates"),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["py"] = repr
    environment.filters["md"] = markdown
    environment.filters["code"] = code
    environment.filters["known"] = lambda fields: {k: v for k, v in fields.items() if v is not None}
    environment.filters["yaml"] = lambda value: _yaml(value).rstrip()
    return environment


def _yaml(data: dict[str, Any]) -> str:
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
