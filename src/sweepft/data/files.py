"""Records of a source, with the place of each: a file, several files, a folder, or a data set of the hub.

What the columns mean is no matter of this module. Which files of a folder make a split is found out by `datasets`;
files are then read by `sweepft.data.file_kinds`, which can name the line of a broken row.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sweepft.data.file_kinds import from_file, is_data_file
from sweepft.data.json_rows import refuse
from sweepft.data.messages import without_nulls
from sweepft.errors import DataError, Problem
from sweepft.spec import has_pattern, is_hub_id

_SAVED: Final = ("state.json", "dataset_dict.json")  # written by save_to_disk

_NAMED: Final = "name the files by a pattern (rows/*.jsonl), or as sources of their own"


@dataclass(frozen=True)
class Location:
    """Where the rows of a source are.

    Attributes:
        path: File, pattern of files, folder, or hub id.
        config: Configuration of a hub data set, or of a folder cloned from the hub.
        revision: Of a hub data set.
        split: A split, or a part of one as `datasets` writes it; by default the only one, else `usual`.
        usual: The split that is meant where there are several and none is named.
    """

    path: str
    config: str | None = None
    revision: str | None = None
    split: str | None = None
    usual: str = "train"


def is_local(path: str) -> bool:
    """Whether `path` is on this machine's disks, rather than the id of a hub data set."""
    return Path(path).exists() or (has_pattern(path) and bool(_matching(path)))


def local_files(path: str) -> list[Path]:
    """The files of a local source: those that match a pattern, or all in a folder but hidden ones."""
    if Path(path).is_dir():
        found = (file for file in Path(path).rglob("*") if file.is_file())
        return sorted(f for f in found if not any(p.startswith(".") for p in f.relative_to(path).parts))
    return [Path(path)] if Path(path).is_file() else _matching(path)


def _matching(pattern: str) -> list[Path]:
    return sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())


def records(location: Location) -> Iterator[tuple[str, Any]]:
    """Yield ``(where, record)`` for each row of a source.

    A row that cannot be read is yielded as a `RowFault` in place of its record.

    Raises:
        DataError: If a file or data set as a whole cannot be read.
    """
    path = location.path
    if not is_local(path):
        if has_pattern(path):
            raise refuse(path, "no file matches the pattern", "check the folder and the pattern", key="path")
        if not is_hub_id(path):
            remedy = "check the path; data sets of the hub are named org/name"
            raise refuse(path, "the file does not exist", remedy, key="path")
        yield from _from_hub(location)
        return
    folder = Path(path)
    if not folder.is_dir():
        yield from _from_splits(location, {"train": local_files(path)})
    elif any((folder / name).is_file() for name in _SAVED):
        yield from _from_saved(location)
    else:
        yield from _from_splits(location, _splits_of_folder(location))


def _from_splits(location: Location, splits: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, Any]]:
    """Rows of the files of a split, or of parts of splits."""
    name = location.split or _usual(location, list(splits))
    if name in splits:
        for file in splits[name]:
            yield from from_file(file)
        return
    wanted = _instructions(location, list(splits))
    rows: dict[str, list[tuple[str, Any]]] = {}
    for part in dict.fromkeys(wanted.splits):
        rows[part] = [row for file in splits[part] for row in from_file(file)]
    for part, start, stop in wanted.parts({part: len(found) for part, found in rows.items()}):
        yield from rows[part][start:stop]


def _usual(location: Location, splits: Sequence[str]) -> str:
    """The split that is read where none is named."""
    if len(splits) == 1:
        return splits[0]
    if location.usual not in splits:
        rule = f"there is no split {location.usual}, and none is named"
        raise _split_problem(location, rule, splits)
    return location.usual


@dataclass(frozen=True)
class _Instructions:
    """A split as `datasets` writes it, e.g. ``train[:10%]+test``."""

    location: Location
    splits: Sequence[str]
    read: Any

    def parts(self, sizes: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
        """Split, first row and the row behind the last one of each part."""
        try:
            absolute = self.read.to_absolute(sizes)
        except (ValueError, AssertionError) as error:
            raise _split_problem(self.location, f"must be a part of a split: {error}", list(sizes)) from None
        for part in absolute:
            yield part.splitname, part.from_ or 0, sizes[part.splitname] if part.to is None else part.to


def _instructions(location: Location, splits: Sequence[str]) -> _Instructions:
    import datasets

    try:
        read = datasets.ReadInstruction.from_spec(location.split)
        names = [part.splitname for part in read._relative_instructions]
    except (ValueError, AttributeError) as error:
        raise _split_problem(location, f"cannot be read as a split: {error}", splits) from None
    if missing := [name for name in names if name not in splits]:
        raise _split_problem(location, f"there is no split {missing[0]}", splits)
    return _Instructions(location, names, read)


def _split_problem(location: Location, rule: str, splits: Sequence[str]) -> DataError:
    remedy = f"write split: with one of {', '.join(splits)}, or a part such as {splits[0]}[:10%]"
    return DataError([Problem(location.path, "split", rule, remedy, location.split)])


def _splits_of_folder(location: Location) -> Mapping[str, list[Path]]:
    """The data files of a folder by split, as `datasets` finds them: by its card, or by the names of the files."""
    files = [file for file in local_files(location.path) if is_data_file(file)]
    if not files:
        remedy = "name a folder with .jsonl, .json, .csv, .tsv, .parquet or .arrow files"
        raise refuse(location.path, "the folder has no data files", remedy, key="path")
    import datasets

    try:
        builder = datasets.load_dataset_builder(location.path, name=location.config)
    except Exception as error:  # of datasets, which raises many kinds
        if "infer the same data file format" in str(error):
            raise refuse(
                location.path, f"the folder holds files of several kinds: {error}", _NAMED, key="path"
            ) from error
        raise _hub_problem(location, error) from error
    found = builder.config.data_files or {}
    splits = {str(name): [Path(str(file)) for file in those] for name, those in found.items()}
    read = {file.resolve() for those in splits.values() for file in those}
    rest = [file.name for file in files if file.resolve() not in read]
    if rest and not _has_card(Path(location.path)):
        shown = ", ".join(rest[:3]) + (", ..." if len(rest) > 3 else "")
        rule = f"the folder holds files of several kinds, and {len(rest)} would not be read: {shown}"
        raise refuse(location.path, rule, _NAMED, key="path")
    return splits


def _has_card(folder: Path) -> bool:
    card = folder / "README.md"
    return card.is_file() and "configs:" in card.read_text(encoding="utf-8", errors="replace")


def _from_saved(location: Location) -> Iterator[tuple[str, Any]]:
    """Rows of a folder that `save_to_disk` wrote."""
    import datasets

    try:
        found = datasets.load_from_disk(location.path)
    except Exception as error:  # of datasets, pyarrow and the file system
        rule = f"the folder must be as save_to_disk wrote it: {type(error).__name__}: {error}"
        raise refuse(location.path, rule, "save it again, or name its .arrow files") from error
    splits = dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}
    name = location.split or _usual(location, list(splits))
    if name in splits:
        parts = [(name, 0, len(splits[name]))]
    else:
        sizes = {split: len(rows) for split, rows in splits.items()}
        parts = list(_instructions(location, list(splits)).parts(sizes))
    for split, start, stop in parts:
        where = location.path if splits.keys() == {"train"} else f"{location.path}[{split}]"
        for number, record in enumerate(splits[split].select(range(start, stop)), start + 1):
            yield f"{where}: row {number}", without_nulls(record)


def _from_hub(location: Location) -> Iterator[tuple[str, Any]]:
    import datasets

    split = location.split or location.usual
    named = {"name": location.config, "revision": location.revision}
    try:
        loaded = datasets.load_dataset(
            location.path, split=split, **{key: value for key, value in named.items() if value is not None}
        )
        for number, record in enumerate(loaded, 1):
            yield f"{location.path}[{split}]: row {number}", without_nulls(record)
    except Exception as error:  # errors of datasets, of the hub, of the file system and of decoders
        raise _hub_problem(location, error, split) from error


def _hub_problem(location: Location, error: Exception, split: str | None = None) -> DataError:
    """What `datasets` said, with the key of the spec that mends it."""
    text = " ".join(str(error).split())
    where = location.path if split is None else f"{location.path} (split {split})"
    rule = f"the data set must be loadable: {type(error).__name__}: {text}"
    if "Config name is missing" in text or "BuilderConfig" in text:
        return DataError(
            [Problem(where, "config", rule, "write config: NAME in the source", location.config)]
        )
    if "Unknown split" in text or "Bad split" in text:
        return DataError([Problem(where, "split", rule, "write split: NAME in the source", location.split)])
    remedy = (
        "check the hub id, its split and the network; a private one needs a token (HF_TOKEN, or hf auth login); or "
        "download it and name the file"
    )
    return DataError([Problem(where, "path", rule, remedy)])
