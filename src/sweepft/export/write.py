"""Write ``best/``: the winner's weights as a model folder, and the files to train it again.

The weights are not copied: ``best/`` holds hard links to the files in ``weights/TRIAL``, and keeps them when the run
continues and another trial becomes the best.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

import sweepft
from sweepft.data.generation_marks import TRAINING_TEMPLATE
from sweepft.data.order import EXPORTED
from sweepft.errors import StorageError, SweepftError
from sweepft.export.facts import BestFacts, best_facts, facts_of
from sweepft.export.recipes import deepspeed_config, one_trial_spec
from sweepft.export.trl import TRAINING_TOKENIZER, needs_tokenizer, trl_config, trl_differences
from sweepft.ledger import SweepState, scores_of
from sweepft.training.generation import set_generation

FACTS_FILE: Final = "best.json"
"""The trial's params and results, for programs."""


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
    weights = Path(run_dir) / "weights" / facts.trial.trial_id
    temporary, old = (folder.with_name(f".best-{word}-{os.getpid()}") for word in ("new", "old"))
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        known = (
            weights if weights.is_dir() else Path(facts.prepared.tokenizer)
        )  # the tokenizer is always there
        if known.is_dir():
            _link(known, temporary)
        _name_base_model(temporary / "adapter" / "adapter_config.json", facts.hub_model)
        if needs_tokenizer(facts) and (temporary / TRAINING_TEMPLATE).is_file():
            _training_tokenizer(temporary)
        for name, text in _texts(facts, view, weights.is_dir(), known.is_dir()).items():
            (temporary / name).unlink(missing_ok=True)  # writing through a link would change the weights
            (temporary / name).write_text(text, encoding="utf-8")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        temporary.rename(folder)
    except OSError as e:
        raise StorageError(
            f"{folder}: cannot be written: {e.strerror or e}\n  the run is complete without it"
        ) from e
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)
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
    path.write_text(_yaml(one_trial_spec(facts)), encoding="utf-8")
    (folder / FACTS_FILE).write_text(json.dumps(_summary(facts, view), allow_nan=False), encoding="utf-8")
    return path


def _link(source: Path, target: Path) -> None:
    """Every file of a folder as a hard link; where the file system has none, as a symbolic one."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
            continue
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
    fields = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": hub_model}
    config.unlink()  # writing through a link would change the adapter in weights/
    config.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


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
    comment = f"# The best trial of {view.name}, {facts.trial.trial_id}: sweepft train spec.yaml\n"
    return {
        "spec.yaml": comment + _yaml(one_trial_spec(facts)),
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
    return "".join(f"# {line}\n" for line in lines) + _yaml(trl_config(facts))


def _summary(facts: BestFacts, view: SweepState) -> dict[str, Any]:
    return {
        "trial_id": facts.trial.trial_id,
        "sweep": view.name,
        "sweepft_version": sweepft.__version__,
        "objective": facts.trial.objective,
        "stderr": facts.stderr,
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
    environment.filters["md"] = lambda value: " ".join(str(value).replace("|", "\\|").split())
    return environment


def _yaml(data: dict[str, Any]) -> str:
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
