"""Tokenised data on disk, written once and shared by every trial and rank of a sweep.

A cache folder is named by the SHA-256 of everything that changes a token, so it is never updated: a changed tokenizer
file, template or row gives a new folder. Files are written under a temporary name and the folder is then renamed, so
readers see all of it or nothing; of two concurrent writers the first wins and the other uses its result.

A folder holds raw arrays (native byte order, no header), described by ``meta.json``::

    tokens.bin   uint16 or uint32, all rows one after another
    mask.bin     bool, same length: True where the token is trained on (a label)
    weights.bin  float32, same length: of each token in the loss, 0 where it is no label; only if some turn has a weight
    sums.bin     float64, rows: sum of a row's weights; only with weights.bin
    offsets.bin  int64, rows + 1: row i is tokens[offsets[i]:offsets[i + 1]]
    targets.bin  int32, rows: trained-on tokens of the row
    domains.bin  int32, rows: index into meta["domains"]
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from sweepft.bounded_json import read_json_file
from sweepft.errors import DataError, Problem, StorageError

CACHE_FORMAT: Final = 2
"""Version of the folder layout; it enters every digest."""
_STALE_SECONDS: Final = 24 * 3600.0  # a temporary folder this old belongs to a writer that died
Mask = npt.NDArray[np.bool_] | npt.NDArray[np.float32]
"""Which tokens of a row are labels: bool, or their weights in the loss, 0 for a token that is none."""
TokenRow = tuple[npt.NDArray[np.int64], Mask, str | None]
"""One row to write: token ids, loss mask (same length), domain."""


class TokenSet:
    """A tokenised data set, memory-mapped and read-only.

    Rows are read on access, and all processes of a node share the pages, so opening a set of any size costs about a
    millisecond. Needs numpy only. Pickles as its path.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a cache folder.

        Raises:
            DataError: If the folder is not a complete cache of this format.
        """
        self.path = Path(path)
        self.meta = _read_meta(self.path)
        rows, n_tokens = int(self.meta["rows"]), int(self.meta["tokens"])
        self._tokens = self._map("tokens", np.dtype(str(self.meta["dtype"])), n_tokens)
        self.weighted = bool(self.meta.get("weighted"))
        """Whether labels have weights of their own."""
        self._mask = self._map("mask", np.dtype(np.bool_), n_tokens)
        self._loss_mask = (
            self._map("weights", np.dtype(np.float32), n_tokens) if self.weighted else self._mask
        )
        self._offsets = self._map("offsets", np.dtype(np.int64), rows + 1)
        self.targets: npt.NDArray[np.int32] = self._map("targets", np.dtype(np.int32), rows)
        """Trained-on tokens of each row, int32, shape ``(rows,)``; at least 1."""
        self.weights: npt.NDArray[np.float64] = (
            self._map("sums", np.dtype(np.float64), rows)
            if self.weighted
            else self.targets.astype(np.float64)
        )
        """Sum of the weights of each row's labels in the loss, float64, shape ``(rows,)``: usually their number."""
        self.domains: npt.NDArray[np.int32] = self._map("domains", np.dtype(np.int32), rows)
        """Domain of each row as an index into `domain_names`, int32, shape ``(rows,)``."""
        self.lengths: npt.NDArray[np.int64] = np.diff(self._offsets)
        """Tokens of each row, int64, shape ``(rows,)``; at least 2."""
        self.domain_names: tuple[str, ...] = tuple(self.meta["domains"])
        self.digest: str = str(self.meta["digest"])
        """SHA-256 of everything that changes a token of this set."""

    def __len__(self) -> int:
        return int(self.targets.shape[0])

    @property
    def rows_by_domain(self) -> dict[str, int]:
        """Rows of each domain, in the order of `domain_names`; the empty name is that of rows without one."""
        counts = np.bincount(self.domains, minlength=len(self.domain_names))
        return dict(zip(self.domain_names, counts.tolist(), strict=True))

    def __repr__(self) -> str:
        return f"TokenSet({str(self.path)!r}, rows={len(self)}, digest={self.digest[:12]})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self.path),))

    def row(self, i: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Tokens of row `i` and which of them are trained on.

        Returns:
            ``(input_ids, loss_mask)``: int64 and bool, both of shape ``(lengths[i],)``, own copies. Where
            ``loss_mask[j]`` is True, token ``j`` is a label, predicted from the tokens before it;
            ``loss_mask[0]`` is always False.
        Raises:
            IndexError: Unless ``0 <= i < len(self)``.
        """
        span = self._span(i)
        return self._tokens[span].astype(np.int64), np.array(self._mask[span])

    def weighted_row(self, i: int) -> tuple[npt.NDArray[np.int64], Mask]:
        """As `row`, for a loss: in a set that is `weighted` the mask is float32, the weight of each label and 0 for
        other tokens.
        """
        span = self._span(i)
        mask: Any = np.array(self._loss_mask[span])
        return self._tokens[span].astype(np.int64), mask

    def _span(self, i: int) -> slice:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        return slice(int(self._offsets[i]), int(self._offsets[i + 1]))

    def _map(self, name: str, dtype: np.dtype[Any], length: int) -> Any:
        file = self.path / f"{name}.bin"
        found = file.stat().st_size if file.is_file() else -1
        if found != length * dtype.itemsize:
            raise DataError([_broken(file, f"{length * dtype.itemsize} bytes", f"{found} bytes")])
        return np.memmap(file, dtype=dtype, mode="r", shape=(length,)).view(np.ndarray)


def write_token_set(
    folder: str | Path,
    rows: Iterable[TokenRow],
    *,
    digest: str,
    vocab_size: int,
    extra: Callable[[], Mapping[str, Any]] | None = None,
) -> TokenSet:
    """Write a token set, atomically, unless one is there already.

    Args:
        folder: Folder to write; its parents are created.
        rows: Rows in order; consumed only if the folder is written.
        digest: SHA-256 of everything that changes a token.
        vocab_size: All token ids are below it; chooses uint16 or uint32.
        extra: Called after the last row; returns JSON-able facts for ``meta["extra"]``, e.g. rows left out.
    Returns:
        The set in `folder`: this one, or that of a concurrent writer that finished first.
    Raises:
        DataError: If there is no row, or a row breaks the rules of `TokenSet.row`.
        StorageError: If the disk is full or read-only.
    """
    target = Path(folder)
    if (target / "meta.json").is_file():
        return TokenSet(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_stale(target.parent)
        temporary = target.parent / f".tmp-{target.name[:24]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        temporary.mkdir(mode=0o700)
        try:
            meta = _write_arrays(temporary, rows, np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32))
            meta |= {
                "format": CACHE_FORMAT,
                "digest": digest,
                "byteorder": sys.byteorder,
                "extra": dict(extra()) if extra else {},
            }
            with _durable(temporary / "meta.json") as out:
                out.write(json.dumps(meta, indent=1, sort_keys=True).encode())
            _rename_or_yield(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{target}: the token cache cannot be written: {error}") from error
    return TokenSet(target)


def _write_arrays(folder: Path, rows: Iterable[TokenRow], dtype: np.dtype[Any]) -> dict[str, Any]:
    offsets, targets, domains = [0], [], []
    names: dict[str, int] = {}
    sums: list[float] = []
    with contextlib.ExitStack() as files:
        tokens_out, mask_out = (
            files.enter_context(_durable(folder / name)) for name in ("tokens.bin", "mask.bin")
        )
        weights_out: BinaryIO | None = None
        for n, (ids, mask, domain) in enumerate(rows):
            _check_row(folder, n, ids, mask, dtype)
            if (
                weights_out is None and mask.dtype != np.bool_
            ):  # the first row with weights: all before it have 1
                mask_out.flush()
                weights_out = files.enter_context(_durable(folder / "weights.bin"))
                weights_out.write(np.fromfile(folder / "mask.bin", np.bool_).astype(np.float32).tobytes())
            if weights_out is not None:
                weights_out.write(mask.astype(np.float32).tobytes())
            tokens_out.write(ids.astype(dtype).tobytes())
            mask_out.write(mask.astype(np.bool_).tobytes())
            sums.append(float(mask.sum(dtype=np.float64)))
            offsets.append(offsets[-1] + len(ids))
            targets.append(int(np.count_nonzero(mask)))
            domains.append(names.setdefault(domain or "", len(names)))
    if not targets:
        raise DataError(
            [Problem(str(folder), "rows", "a token set needs at least one row", "check the source")]
        )
    ends, counts = np.array(offsets, np.int64), np.array(targets, np.int32)
    small: dict[str, npt.NDArray[Any]] = {
        "offsets": ends,
        "targets": counts,
        "domains": np.array(domains, np.int32),
    }
    if weights_out is not None:
        small["sums"] = np.array(sums, np.float64)
    for name, array in small.items():
        with _durable(folder / f"{name}.bin") as out:
            out.write(array.tobytes())
    return {
        "rows": len(targets),
        "tokens": offsets[-1],
        "targets": int(counts.sum(dtype=np.int64)),
        "longest": int(np.diff(ends).max()),
        "dtype": dtype.name,
        "domains": list(names),
        "weighted": weights_out is not None,
    }


def _check_row(
    folder: Path, n: int, ids: npt.NDArray[Any], mask: npt.NDArray[Any], dtype: np.dtype[Any]
) -> None:
    wrong = None
    if ids.ndim != 1 or ids.shape != mask.shape or ids.size < 2:
        wrong = f"ids and mask must be 1-d, equally long and hold 2 tokens or more: {ids.shape}, {mask.shape}"
    elif mask[0] or not mask.any():
        wrong = "the first token can be no label, and one other must be"
    elif mask.dtype != np.bool_ and not (np.isfinite(mask).all() and mask.min() >= 0):
        wrong = "weights must be finite and at least 0"
    elif ids.min() < 0 or ids.max() > np.iinfo(dtype).max:
        wrong = f"ids must fit {dtype}: {ids.min()} to {ids.max()}"
    if wrong:
        raise DataError(
            [Problem(f"{folder}: row {n}", "tokens", wrong, "this is a fault of the tokenising step")]
        )


@contextlib.contextmanager
def _durable(file: Path) -> Iterator[BinaryIO]:
    """Open for writing; on the way out the bytes are on the disk, so that a rename never publishes holes."""
    with file.open("wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


def _rename_or_yield(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not (target / "meta.json").is_file():  # not another writer's cache: a real failure
            raise


def _sweep_stale(parent: Path) -> None:
    for old in parent.glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)


def _read_meta(path: Path) -> dict[str, Any]:
    file = path / "meta.json"
    try:
        meta = read_json_file(file)
    except (OSError, ValueError) as error:
        raise DataError([_broken(file, "a readable meta.json", str(error))]) from error
    for key, expected in (("format", CACHE_FORMAT), ("byteorder", sys.byteorder)):
        if meta.get(key) != expected:
            raise DataError([_broken(file, f"{key} {expected}", meta.get(key))])
    return dict(meta)


def _broken(file: Path, expected: str, found: Any) -> Problem:
    return Problem(
        where=str(file),
        key="cache",
        rule=f"a token cache must be complete: expected {expected}",
        value=found,
        remedy=f"remove the folder {file.parent}; it is made again from the data",
    )
