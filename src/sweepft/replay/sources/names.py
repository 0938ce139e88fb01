"""Which column of a source is which: names that people give them, and which way an objective is good."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from sweepft.errors import Problem, ReplayError
from sweepft.replay.curves import Mode
from sweepft.replay.sources.cells import numbers

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "study": ("study", "experiment", "sweep", "experiment_name"),
    "run": ("run_id", "run", "trial_id", "trial", "run_uuid", "run_name", "trial_name", "name", "id"),
    "step": (
        "step", "global_step", "train_global_step", "trainer_global_step", "_step", "training_iteration",
        "iteration", "iter", "epoch",
    ),
    "samples": ("samples", "samples_seen", "consumed_samples"),
    "seconds": (
        "seconds", "time_total_s", "elapsed", "wall_seconds", "elapsed_seconds", "_runtime", "runtime",
        "_timestamp", "timestamp", "wall_time",
    ),
    "loss": (
        "train_loss", "loss", "train_loss_step", "train_loss_epoch", "training_loss", "loss_train",
        "train_epoch_loss",
    ),
    "grad_norm": ("grad_norm", "train_grad_norm", "gradient_norm", "total_norm"),
    "metric": (
        "eval_metric", "eval_loss", "val_loss", "valid_loss", "validation_loss", "dev_loss", "val_loss_epoch",
        "validation_epoch_loss", "loss_val", "loss_eval", "objective",
    ),
    "final": ("final_metric",),
    "mode": ("metric_mode",),
    "metric_name": ("metric",),
    "source": ("source",),
}  # fmt: skip
"""Key of `--column` -> names of the column, as `plain` writes them, the first one found wins."""

MAPPED: Final = tuple(key for key in COLUMNS if key not in ("metric_name", "source"))
"""Keys that `--column` takes."""

_EVALUATION: Final = {"eval", "val", "valid", "validation", "dev", "heldout", "test"}
_TRAINING: Final = {"train", "training"}
_NO_RESULT: Final = {
    "runtime", "second", "seconds", "sec", "time", "timestamp", "memory", "mem", "tokens", "num", "count",
    "samples", "throughput", "lr", "learning", "hp", "iterations", "min", "max",
}  # fmt: skip
_LESS: Final = (
    "loss", "error", "err", "perplexity", "ppl", "nll", "negative", "wer", "cer", "mse", "mae", "rmse", "mape", "fid",
    "cost", "regret", "entropy", "kl", "bpb", "brier", "ece",
)  # fmt: skip
_MORE: Final = (
    "acc", "accs", "accuracy", "accuracies", "f1", "auc", "auroc", "auprc", "bleu", "sacrebleu", "rouge", "meteor",
    "chrf", "reward", "rewards", "return", "score", "em", "precision", "recall", "map", "mrr", "ndcg", "r2", "mcc",
    "iou", "miou", "dice", "ssim", "psnr", "pearson", "spearman", "kappa", "similarity", "success", "winrate",
    "margin", "margins", "likelihood", "top1", "top5", "correct",
)  # fmt: skip
_MORE_WITHIN: Final = (
    "acc",
    "f1",
    "auc",
    "bleu",
    "rouge",
    "reward",
    "score",
    "exact_match",
    "win_rate",
    "pass_at",
)
_MIN_WORDS: Final = {"min", "minimize", "minimise", "minimum", "lower", "less", "smaller", "down", "decrease"}
_MAX_WORDS: Final = {
    "max",
    "maximize",
    "maximise",
    "maximum",
    "higher",
    "more",
    "greater",
    "larger",
    "up",
    "increase",
}


def plain(name: Any) -> str:
    """A column's name for comparison: lower case, words joined by ``_``: ``eval/loss`` and ``Eval Loss`` are equal."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(name).strip())
    text = re.sub(r"[^a-z0-9]+", "_", text.lower().replace("@", "_at_"))
    return text.removeprefix("ray_tune_")


def read_mode(text: Any, *, where: str, key: str) -> Mode:
    """``min`` or ``max`` from what people write: ``maximize``, ``MAX``, ``higher is better``.

    Raises:
        ReplayError: It is neither.
    """
    word = re.sub(r"[\s_-]*(is[\s_-]*)?better$", "", str(text).strip().lower())
    if word in _MIN_WORDS:
        return "min"
    if word in _MAX_WORDS:
        return "max"
    rule = "must be min or max (minimize, lower, maximize, higher in any case)"
    raise ReplayError(
        str(Problem(where, key, rule, "give --mode min or --mode max", text)), key="replay.mode"
    )


def mode_of(name: str) -> Mode | None:
    """Which way an objective of this name is good; None where the name does not tell."""
    flat = plain(name)
    words = [re.sub(r"(?<=[a-z])\d+$", "", w) for w in flat.split("_")] + flat.split("_")
    if any(w in _LESS for w in words):
        return "min"
    if any(w in _MORE for w in words) or any(part in flat for part in _MORE_WITHIN):
        return "max"
    return None


def resolve(frame: pd.DataFrame, where: str, given: Mapping[str, str]) -> dict[str, str]:
    """Key of `COLUMNS` -> the frame's column.

    Raises:
        ReplayError: A column that is needed or given is missing, or several could be the objective.
    """
    unknown = [key for key in given if key not in MAPPED]
    if unknown:
        rule = f"must be one of {', '.join(MAPPED)}"
        raise _error(Problem(where, "--column", rule, "write OURS=THEIRS, e.g. metric=val_acc", unknown[0]))
    names = {ours: _given(frame, where, ours, theirs) for ours, theirs in given.items()}
    by_plain: dict[str, str] = {}
    for column in frame.columns:
        if column not in names.values():
            by_plain.setdefault(plain(column), column)
    for ours, usual in COLUMNS.items():
        found = [by_plain[name] for name in usual if name in by_plain]
        if ours not in names and found:
            names[ours] = _best_filled(frame, found, enough=0.9 if ours == "step" else 0.5)
    if "metric_name" in names and "metric" not in names and _has_numbers(frame[names["metric_name"]]):
        names["metric"] = names.pop("metric_name")
    if "metric" not in names and "final" not in names:
        names["metric"] = _objective(frame, where, names)
    for needed in ("run", "step"):
        if needed not in names:
            if "run" in names and frame[names["run"]].is_unique:
                raise no_curves(where)
            rule = f"one of the columns {', '.join(COLUMNS[needed])} is needed"
            remedy = f"name it with --column {needed}=NAME; {_has(frame)}"
            raise _error(Problem(where, needed, rule, remedy))
    return names


def _given(frame: pd.DataFrame, where: str, ours: str, theirs: str) -> str:
    if theirs in frame.columns:
        return theirs
    alike = [c for c in frame.columns if plain(c) == plain(theirs)]
    if len(alike) == 1:
        return str(alike[0])
    close = difflib.get_close_matches(plain(theirs), [plain(c) for c in frame.columns], n=3, cutoff=0.5)
    likely = [str(c) for c in frame.columns if plain(c) in close]
    remedy = (f"did you mean {' or '.join(likely)}? " if likely else "") + _has(frame)
    raise _error(Problem(where, f"--column {ours}", "must name a column of the source", remedy, theirs))


def _best_filled(frame: pd.DataFrame, found: Sequence[str], *, enough: float) -> str:
    """The first of these columns that has this share of the values that the fullest one has."""
    filled = {column: int(frame[column].notna().sum()) for column in found}
    return next(c for c in found if filled[c] >= enough * max(filled.values()))


def _objective(frame: pd.DataFrame, where: str, names: Mapping[str, str]) -> str:
    """The column that can only be the objective, by its name."""
    likely = candidates(frame, names.values())
    losses = [c for c in likely if "loss" in plain(c).split("_")]
    for choice in (losses, likely):
        if len(choice) == 1:
            return choice[0]
        if choice:
            remedy = f"name it with --column metric=NAME: {', '.join(choice)}"
            raise _error(Problem(where, "metric", "several columns could be the objective", remedy))
    loss = names.get("loss")
    remedy = "name it with --column metric=NAME" + (
        f", e.g. metric={loss} if that is the objective" if loss else ""
    )
    rule = "no objective was found: none of eval_loss, val_loss, eval/loss and the like"
    raise _error(Problem(where, "metric", rule, f"{remedy}; {_has(frame)}"))


def candidates(frame: pd.DataFrame, taken: Iterable[str]) -> list[str]:
    """Columns of numbers that may be an objective: those of an evaluation, else those with a known direction."""
    rest = [c for c in frame.columns if c not in set(taken) and not is_param(c)]
    words = {c: set(plain(c).split("_")) for c in rest}
    rest = [c for c in rest if not words[c] & (_NO_RESULT | _TRAINING)]
    evaluated = [c for c in rest if words[c] & _EVALUATION]
    held_out = [c for c in evaluated if "test" not in words[c]]
    for choice in (held_out, evaluated, [c for c in rest if mode_of(c)]):
        known = [c for c in choice if _has_numbers(frame[c])]
        if known:
            return known
    return []


def _has_numbers(column: pd.Series[Any]) -> bool:
    values, _ = numbers(column)
    return not np.isnan(values).all()


def is_param(column: Any) -> bool:
    """Whether the name says that the column is a hyperparameter."""
    return bool(PARAM_PREFIX.match(str(column)))


PARAM_PREFIX: Final = re.compile(r"(config|params?|hparams?|hyperparameters?)[/.]|param_")


def _has(frame: pd.DataFrame) -> str:
    shown = [str(c) for c in frame.columns if not is_param(c)]
    return f"it has: {', '.join(shown[:40])}" + (", ..." if len(shown) > 40 else "")


def no_curves(where: str) -> ReplayError:
    """The error for results without learning curves."""
    return ReplayError(
        f"{where}: every run has one row: a result, no learning curve\n"
        "  export the history of the runs, one row per logged step",
        key="replay.no_curves",
    )


def _error(problem: Problem) -> ReplayError:
    return ReplayError(str(problem), key="replay.column")
