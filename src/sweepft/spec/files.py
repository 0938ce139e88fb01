"""Checks of the files and prior sweeps that a spec names.

Rows are not read here (:mod:`sweepft.data` does that), and hub ids are not resolved.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any, Final

from sweepft.bounded_json import read_json_file
from sweepft.spec.base_model import config_problems, folder_problem, header_problem, read_header
from sweepft.spec.fields import has_pattern, is_hub_id, is_template_file, path_problem
from sweepft.spec.objective import OwnMetric, TaskMetric
from sweepft.spec.partial import PartialSpec
from sweepft.spec.row_source import RowSource
from sweepft.spec.sections import Data, Model, TestSource, Validation
from sweepft.spec.yaml_source import KeyPath, key_path

_TOKENIZERS: Final = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("spiece.model",),
    ("vocab.json", "merges.txt"),
)

_INDEX: Final = "model.safetensors.index.json"


def check_files(partial: PartialSpec) -> None:
    """Report files that are missing, empty or incomplete."""
    if partial.model is not None:
        _check_model(partial, partial.model)
    if partial.data is not None:
        _check_data(partial, partial.data)
    if partial.evaluate is not None:
        _check_task_folders(partial, ("evaluate",), partial.evaluate.include_path)
    if partial.objective is not None:
        for place, wanted in partial.objective.measured.items():
            _check_measured(partial, key_path(place), wanted)


def _check_measured(partial: PartialSpec, place: KeyPath, wanted: TaskMetric | OwnMetric) -> None:
    """Check the files of a task, or of a function of the user's own."""
    if isinstance(wanted, TaskMetric):
        _check_task_folders(partial, place, wanted.include_path)
        return
    _check_file(
        partial, (*place, "data"), wanted.data, "a file with rows (.jsonl, .json, .csv, .parquet, ...)"
    )
    section: Any = partial.document.data
    for part in place:
        section = section[part]
    if section.get("include_path"):
        _check_task_folders(partial, place, wanted.include_path)
    module = wanted.metric.partition(":")[0]
    if not all(map(os.path.isdir, wanted.include_path)):
        return
    if not any(os.path.isfile(os.path.join(folder, f"{module}.py")) for folder in wanted.include_path):
        folders = ", ".join(wanted.include_path) or "the folder of the spec"
        rule = f"there is no file {module}.py in {folders}"
        remedy = f"write {module}.py there, or name its folder in include_path"
        partial.add((*place, "metric"), rule, remedy, wanted.metric)


def _check_task_folders(partial: PartialSpec, place: KeyPath, folders: tuple[str, ...]) -> None:
    """Check the folders in the ``include_path`` of a section."""
    section: Any = partial.document.data
    for part in place:
        section = section[part]
    for i, folder in enumerate(folders):
        listed = isinstance(section["include_path"], list)
        key: KeyPath = (*place, "include_path", i) if listed else (*place, "include_path")
        if _can_look_up(partial, key, folder) and not os.path.isdir(folder):
            remedy = "name a folder with your files; relative paths are resolved against the spec's folder"
            partial.add(key, "the folder does not exist", remedy, folder)


def check_prior_sweeps(partial: PartialSpec) -> None:
    """Report entries of ``early_stop.prior_sweeps`` that cannot be used."""
    stop = partial.early_stop
    if stop is None or not stop.prior_sweeps:
        return
    from sweepft.early_stopping import read_prior_sweeps
    from sweepft.errors import PriorSweepsError

    def attempt(entries: tuple[str, ...]) -> None:
        try:
            read_prior_sweeps(
                entries,
                rule=stop.rule,
                top_fraction=stop.top_fraction,
                max_false_stop_rate=stop.max_false_stop_rate,
            )
        except PriorSweepsError as error:
            written = partial.document.data["early_stop"]["prior_sweeps"]
            place = (stop.prior_sweeps.index(error.entry),) if isinstance(written, list) else ()
            partial.add(("early_stop", "prior_sweeps", *place), error.rule, error.remedy, error.entry)

    before = len(partial.problems)
    for entry in stop.prior_sweeps:
        attempt((entry,))
    if len(partial.problems) == before:  # each entry is valid: check that they fit together
        attempt(stop.prior_sweeps)


def check_learn_from(partial: PartialSpec) -> None:
    """Report entries of ``search.learn_from`` that cannot be used."""
    search = partial.search
    if search is None or not search.learn_from:
        return
    from sweepft.errors import LearnFromError
    from sweepft.spec.learn_from import read_earlier_sweeps

    try:
        read_earlier_sweeps(search)
    except LearnFromError as error:
        written = partial.document.data["search"]["learn_from"]
        place = (search.learn_from.index(error.entry),) if isinstance(written, list) else ()
        partial.add(("search", "learn_from", *place), error.rule, error.remedy, error.entry)


def _check_model(partial: PartialSpec, model: Model) -> None:
    if model.chat_template is not None and is_template_file(model.chat_template):
        _check_file(
            partial, ("model", "chat_template"), model.chat_template, "a Jinja file or a built-in template"
        )
    if _is_remote(model.path):
        if model.allow_pickle:
            remedy = "download the model and name its folder in model.path"
            partial.add(
                ("model", "allow_pickle"), "applies to local folders only", remedy, list(model.allow_pickle)
            )
    elif _is_model_folder(partial, model.path):
        _check_model_folder(partial, model, Path(model.path))


def _is_model_folder(partial: PartialSpec, path: str) -> bool:
    key: KeyPath = ("model", "path")
    if not _can_look_up(partial, key, path):
        return False
    if not os.path.isdir(path):
        rule = "must be a folder, not a file" if os.path.exists(path) else "the folder does not exist"
        partial.add(key, rule, "name a local model folder or a hub id such as org/name", path)
        return False
    other = folder_problem(Path(path))
    if other is not None:
        partial.add(key, *other, path)
    return other is None


def _check_model_folder(partial: PartialSpec, model: Model, folder: Path) -> None:
    key: KeyPath = ("model", "path")
    missing = []
    if not _is_json(folder / "config.json"):
        missing.append("no readable config.json")
    if not any(all(_is_filled(folder / name) for name in names) for names in _TOKENIZERS):
        missing.append("no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt)")
    pickles = _only_pickles(folder)
    refused = [name for name in pickles if name not in model.allow_pickle]
    if refused:
        rule = f"the model folder contains weights as pickle files only ({', '.join(refused[:3])})"
        remedy = (
            "save the model as safetensors with save_pretrained, or allow the files with "
            f"model.allow_pickle: [{', '.join(pickles)}]"
        )
        partial.add(key, rule, remedy, model.path)
    missing += _missing_weights(folder) if not pickles else []
    if missing:
        remedy = "save model and tokenizer to it with save_pretrained, or name another folder"
        partial.add(key, f"the model folder has {'; '.join(missing)}", remedy, model.path)
    damaged = [problem for problem in map(header_problem, sorted(folder.glob("*.safetensors"))) if problem]
    damaged = damaged or _not_in_shards(folder)
    if damaged and not missing:
        rule = f"the weights cannot be read: {'; '.join(damaged[:3])}"
        partial.add(key, rule, "download or copy the files again", model.path)
    if _is_json(folder / "config.json"):
        for rule, remedy in config_problems(read_json_file(folder / "config.json")):
            partial.add(key, rule, remedy, model.path)


def _missing_weights(folder: Path) -> list[str]:
    index = folder / _INDEX
    if index.is_file():
        try:
            shards = set(map(str, read_json_file(index)["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return [f"an unreadable {_INDEX}"]
        lost = sorted(name for name in shards if not _is_filled(folder / name))
        return [f"no {name}, which {_INDEX} lists" for name in lost[:3]]
    if any(_is_filled(path) for path in folder.glob("*.safetensors")):
        return []
    return ["no weights (*.safetensors)"]


def _not_in_shards(folder: Path) -> list[str]:
    """Weights that the index places in a file which does not hold them."""
    index = folder / _INDEX
    if not index.is_file():
        return []
    try:
        placed = read_json_file(index)["weight_map"]
        held = {name: read_header(folder / name).keys() for name in set(placed.values())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # reported as missing or damaged
    return [
        f"{shard} has no {name}, which {_INDEX} lists"
        for name, shard in placed.items()
        if name not in held[shard]
    ]


def _only_pickles(folder: Path) -> list[str]:
    """Names of the pickle files of a model without safetensors."""
    if any(folder.glob("*.safetensors")) or (folder / _INDEX).is_file():
        return []
    return sorted(path.name for path in folder.glob("pytorch_model*.bin"))


def _check_data(partial: PartialSpec, data: Data) -> None:
    train: dict[str, int] = {}
    for i, source in enumerate(data.train):
        key: KeyPath = ("data", "train", i, "path")
        if _check_rows(partial, key, source.path) and source.domains is None:
            # with domains, rows are compared when they are read
            train.setdefault(_identity(source, "train"), i)
    others: list[tuple[KeyPath, Validation | TestSource, str]] = [
        (("data", "validation", i, "path"), held, "train")
        for i, held in enumerate(data.validation)
        if held.path is not None
    ]
    others += [(("data", "test", i, "path"), test, "test") for i, test in enumerate(data.test)]
    for key, other, usual in others:
        path = other.path or ""
        if not _check_rows(partial, key, path):
            continue
        same = train.get(_identity(other, usual))
        if same is not None:
            remedy = "name another file, or hold out training rows with fraction: 0.03"
            partial.add(
                key,
                f"must not overlap with the training rows, but is the file of data.train.{same}",
                remedy,
                path,
            )


_ROWS: Final = (
    "a file with rows (.jsonl, .json, .csv, .parquet, ...), a folder or pattern of them, or a hub id"
)


def _check_rows(partial: PartialSpec, key: KeyPath, path: str) -> bool:
    """Check that a source of rows is there; what is in it is read later."""
    if not _can_look_up(partial, key, path):
        return False
    if os.path.isdir(path):
        if any(Path(path).glob("*.safetensors")):
            partial.add(key, "is the folder of a model", f"name {_ROWS}", path)
            return False
        if any(file.is_file() for file in Path(path).rglob("*")):
            return True
        partial.add(key, "the folder is empty", f"name {_ROWS}", path)
        return False
    if has_pattern(path) and not os.path.exists(path):
        if any(os.path.isfile(name) for name in glob.glob(path, recursive=True)):
            return True
        remedy = f"name {_ROWS}; relative paths are resolved against the spec's folder"
        partial.add(key, "no file matches the pattern", remedy, path)
        return False
    return _check_file(partial, key, path, _ROWS)


def _check_file(partial: PartialSpec, key: KeyPath, path: str, wanted: str) -> bool:
    if _is_remote(path):
        return True
    if not _can_look_up(partial, key, path):
        return False
    if not os.path.isfile(path):
        rule = "must be a file, not a folder" if os.path.isdir(path) else "the file does not exist"
        partial.add(key, rule, f"name {wanted}; relative paths are resolved against the spec's folder", path)
        return False
    if os.stat(path).st_size == 0:
        partial.add(key, "the file is empty", "name a file that contains rows", path)
        return False
    return True


def _identity(source: RowSource, usual: str) -> str:
    path = str(getattr(source, "path", ""))
    if _is_remote(path):
        return f"{path}:{source.config}:{source.split or usual}"
    several = os.path.isdir(path) or has_pattern(path)
    return f"{os.path.realpath(path)}:{source.config}:{source.split or (usual if several else None)}"


def _is_remote(path: str) -> bool:
    return is_hub_id(path) and not os.path.exists(path)


def _can_look_up(partial: PartialSpec, key: KeyPath, path: str) -> bool:
    """Report a path that lies in a folder one may not enter, is too long, or goes round in links."""
    rule = path_problem(path)
    if rule is not None:
        partial.add(key, rule, "check the path, and the permissions of the folders on it", path)
    return rule is None


def _is_filled(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except (OSError, ValueError):
        return False


def _is_json(path: Path) -> bool:
    try:
        return isinstance(read_json_file(path), dict)
    except (OSError, ValueError):
        return False
