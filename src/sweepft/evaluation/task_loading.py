"""Find a task and load its data, or say what is missing and where it belongs.

The idea to keep in mind: own folders come first, and the harness's thousands of tasks are indexed (seconds) only for a
name that is not in them. Relative data files of a task start from the folder in ``include_path`` that holds it.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sweepft.errors import EvaluateError
from sweepft.evaluation.tasks import EvalTask


def load_tasks(plan: EvalTask) -> dict[str, Any]:
    """The harness's ``{tasks, groups, group_map}`` for one task or group, data loaded, settings applied.

    Raises:
        EvaluateError: If there is no such task, or its data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=list(plan.include_path), include_defaults=False)
    loaded: dict[str, Any]
    try:
        loaded = _load(own, plan)
    except KeyError:  # not here, or a group here of tasks that are not
        every = TaskManager(include_path=list(plan.include_path), include_defaults=True)
        if plan.name not in every.all_tasks:
            raise EvaluateError(_unknown(plan, own.all_tasks, every.all_tasks)) from None
        loaded = _load(every, plan)
    for task in loaded["tasks"].values():
        if plan.num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=plan.num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)  # the harness's own
    return loaded


def metric_names(metrics: Iterable[str]) -> dict[str, str]:
    """Short names for the harness's ``metric,filter`` keys: the metric alone where it has one filter.

    Returns:
        Key -> name, standard errors left out.
    """
    keys = [key for key in metrics if "," in key and "_stderr," not in key]
    count = [key.partition(",")[0] for key in keys]
    return {key: key.partition(",")[0] if count.count(key.partition(",")[0]) == 1 else key for key in keys}


def _load(manager: Any, plan: EvalTask) -> dict[str, Any]:
    entry = manager.task_index.get(plan.name)
    if entry is None:
        raise KeyError(plan.name)
    with _in_folder_of(entry.yaml_path, plan.include_path):
        try:
            return dict(manager.load([plan.name]))
        except KeyError:
            raise
        except Exception as error:
            raise EvaluateError(_no_data(plan.name, entry, error)) from error


@contextlib.contextmanager
def _in_folder_of(file: Path | None, include_path: Iterable[str]) -> Iterator[None]:
    homes = (Path(folder).resolve() for folder in include_path)
    home = next((h for h in homes if file is not None and Path(file).resolve().is_relative_to(h)), None)
    with contextlib.nullcontext() if home is None else contextlib.chdir(home):
        yield


def _unknown(plan: EvalTask, own: list[str], every: list[str]) -> str:
    near = difflib.get_close_matches(plan.name, every, n=3) or own[:5]
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return f"evaluate.tasks: {plan.name}: there is no such task\n  {hint}`lm_eval ls tasks` lists the harness's own"


def _no_data(name: str, entry: Any, error: Exception) -> str:
    config = entry.cfg or {}
    wanted = config.get("dataset_path")
    said = (str(error).strip().splitlines() or [""])[0][:300]
    place = f"evaluate.tasks: {name} ({entry.yaml_path})"
    if isinstance(error, ConnectionError) or "offline" in said.lower() or "couldn't reach" in said.lower():
        from huggingface_hub.constants import HF_HUB_CACHE

        return (
            f"{place}: {wanted or 'its data set'} is not on this machine and cannot be fetched: {said}\n"
            f"  fetch it where there is a network (hf download --repo-type dataset {wanted or 'NAME'}) and copy "
            f"its folder into {HF_HUB_CACHE}, or write a task file with data of your own in evaluate.include_path"
        )
    if isinstance(error, ImportError):
        return (
            f"{place}: needs a package that is not installed: {said}\n"
            "  install it; for the harness's own tasks: pip install 'lm-eval[EXTRA]', EXTRA being ifeval, math, ..."
        )
    return (
        f"{place}: cannot be loaded: {type(error).__name__}: {said}\n  mend the task file; relative data files start "
        "from the folder in evaluate.include_path"
    )
