"""Find a task and load its data, or report what is missing.

The spec's own folders are searched first. The harness's thousands of tasks, which take seconds to index, are searched
only for a name that is not in them. Relative data files of a task are resolved against its folder in
``include_path``.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from sweepft.errors import EvaluateError
from sweepft.evaluation.tasks import EvalTask

FEWSHOT_SEED: Final = 1234
"""The harness's default."""


def load_tasks(wanted: EvalTask) -> dict[str, Any]:
    """The harness's ``{tasks, groups, group_map}`` for one task or group, data loaded, settings applied.

    Raises:
        EvaluateError: If there is no such task, or its data cannot be loaded.
    """
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=list(wanted.include_path), include_defaults=False)
    loaded: dict[str, Any]
    try:
        loaded = _load(own, wanted)
    except KeyError:  # not there, or a local group of tasks that are not
        every = TaskManager(include_path=list(wanted.include_path), include_defaults=True)
        if wanted.name not in every.all_tasks:
            raise EvaluateError(
                _unknown(wanted, own.all_tasks, every.all_tasks), key="evaluate.tasks.unknown"
            ) from None
        loaded = _load(every, wanted)
    for task in loaded["tasks"].values():
        if wanted.num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=wanted.num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


def check_name(wanted: EvalTask) -> None:
    """See that there is such a task, without loading its data. Raises EvaluateError."""
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=list(wanted.include_path), include_defaults=False)
    if wanted.name in own.all_tasks:
        return
    every = TaskManager(include_path=list(wanted.include_path), include_defaults=True)
    if wanted.name not in every.all_tasks:
        raise EvaluateError(_unknown(wanted, own.all_tasks, every.all_tasks), key="evaluate.tasks.unknown")


@contextlib.contextmanager
def hub_offline() -> Iterator[None]:
    """Have Hugging Face's libraries take data sets from their caches, without asking the hub for newer ones."""
    import datasets
    import huggingface_hub

    switches = ((datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE"))
    before = [getattr(module, name) for module, name in switches]
    try:
        for module, name in switches:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)


def metric_names(metrics: Iterable[str]) -> dict[str, str]:
    """Short names of the harness's ``metric,filter`` keys: the metric alone if it has one filter.

    Returns:
        Key -> name, without standard errors.
    """
    keys = [key for key in metrics if "," in key and "_stderr," not in key]
    count = [key.partition(",")[0] for key in keys]
    return {key: key.partition(",")[0] if count.count(key.partition(",")[0]) == 1 else key for key in keys}


def _load(manager: Any, wanted: EvalTask) -> dict[str, Any]:
    entry = manager.task_index.get(wanted.name)
    if entry is None:
        raise KeyError(wanted.name)
    with _in_folder_of(entry.yaml_path, wanted.include_path):
        try:
            return dict(manager.load([wanted.name]))
        except KeyError:
            raise
        except Exception as error:
            raise EvaluateError(_no_data(wanted, entry, error), key="evaluate.tasks.data") from error


@contextlib.contextmanager
def _in_folder_of(file: Path | None, include_path: Iterable[str]) -> Iterator[None]:
    homes = (Path(folder).resolve() for folder in include_path)
    home = next((h for h in homes if file is not None and Path(file).resolve().is_relative_to(h)), None)
    with contextlib.nullcontext() if home is None else contextlib.chdir(home):
        yield


def _folders(wanted: EvalTask) -> str:
    """The key of the spec with the folders of task files."""
    section = wanted.place.removesuffix(".tasks").removesuffix(".task")
    return f"{section}.include_path"


def _unknown(wanted: EvalTask, own: list[str], every: list[str]) -> str:
    near = difflib.get_close_matches(wanted.name, every, n=3) or own[:5]
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return (
        f"{wanted.place}: {wanted.name}: no such task\n  {hint}`lm_eval ls tasks` lists those of the harness"
    )


def _no_data(wanted: EvalTask, entry: Any, error: Exception) -> str:
    config = entry.cfg or {}
    dataset = config.get("dataset_path")
    cause = (str(error).strip().splitlines() or [""])[0][:300]
    place, folders = f"{wanted.place}: {wanted.name} ({entry.yaml_path})", _folders(wanted)
    if isinstance(error, ConnectionError) or "offline" in cause.lower() or "couldn't reach" in cause.lower():
        from huggingface_hub.constants import HF_HUB_CACHE

        return (
            f"{place}: {dataset or 'its data set'} is not on this machine and cannot be downloaded: {cause}\n"
            "  download it on a machine with network access "
            f"(hf download --repo-type dataset {dataset or 'NAME'}) and copy "
            f"its folder into {HF_HUB_CACHE}, or write a task file with local data in {folders}"
        )
    if isinstance(error, ImportError):
        return (
            f"{place}: needs a package that is not installed: {cause}\n"
            "  install it; for tasks of the harness: pip install 'lm-eval[EXTRA]' with EXTRA such as ifeval or math"
        )
    return (
        f"{place}: cannot be loaded: {type(error).__name__}: {cause}\n"
        f"  correct the task file; relative data files are resolved against the folder in {folders}"
    )
