"""Prepare the data of a sweep before its first trial: read, split, tokenise, cache, and resolve the budget to samples.

`prepare` tokenises and therefore imports transformers and torch, which the driver must not. The driver calls
`prepare_in_child`, which reuses an earlier result or runs `prepare` in a child process, and returns a small `Prepared`
of paths, digests and counts. Test sets are tokenised only after the search (`load_test_sets`); before that they are
read only to remove their examples from training.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from sweepft.data.cache import TokenRow, TokenSet, write_token_set
from sweepft.data.encode import Encoder, rows_digest
from sweepft.data.order import SampleOrder, phase_shares
from sweepft.data.prepared import Prepared, Tokenised, ValidationData, memo_file, recall, remember
from sweepft.data.rows import Row
from sweepft.data.source_form import source_form
from sweepft.data.split import check_domains, split_data, test_rows
from sweepft.data.tokenizer import LoadedTokenizer, load_tokenizer
from sweepft.errors import DataError, Problem, StorageError, SweepftError
from sweepft.spec.sections import Budget
from sweepft.spec.sweep import SweepSpec


def prepare_in_child(spec: SweepSpec, cache_dir: str | Path) -> Prepared:
    """`prepare` in a child process, unless its result is already in `cache_dir`.

    For the driver: neither transformers nor torch is imported here. An earlier result is reused when spec, bytes of
    the files, library versions and caches are all the same; hub data is looked up each time.

    Raises:
        DataError: As `prepare`.
        StorageError: If the cache cannot be written.
        SweepftError: If the process failed in another way, with the end of its output.
    """
    known = recall(memo_file(spec, Path(cache_dir)))
    return known or Prepared.model_validate(_in_child(spec, cache_dir, "prepared"))


def load_test_sets(spec: SweepSpec, cache_dir: str | Path) -> dict[str, Tokenised]:
    """`tokenise_tests` in a child process: for the driver, which imports neither transformers nor torch.

    Raises:
        DataError: If a set or the tokenizer cannot be used.
        StorageError: If the cache cannot be written.
        SweepftError: If the process failed in another way, with the end of its output.
    """
    if not spec.data.test:
        return {}
    found = _in_child(spec, cache_dir, "tests")
    return {name: Tokenised.model_validate(tokenised) for name, tokenised in found.items()}


def _in_child(spec: SweepSpec, cache_dir: str | Path, what: str) -> Any:
    """Run ``python -m sweepft.data`` and return its answer: plain data."""
    with tempfile.TemporaryDirectory(prefix="sweepft-data-") as folder:
        outcome = Path(folder) / "outcome.json"
        job = {"spec": spec.to_dict(), "cache_dir": str(cache_dir), "outcome": str(outcome), "what": what}
        command = [sys.executable, "-m", "sweepft.data"]
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
        answer: Mapping[str, Any] = json.loads(outcome.read_text()) if outcome.is_file() else {}
    if what in answer:
        return answer[what]
    if "problems" in answer:
        raise DataError([Problem(**problem) for problem in answer["problems"]])
    if "storage" in answer:
        raise StorageError(answer["storage"])
    tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
    raise SweepftError(
        f"preparing the data failed (exit status {done.returncode}):\n{tail}", key="data.child"
    )


def prepare(spec: SweepSpec, cache_dir: str | Path) -> Prepared:
    """Read, split, tokenise and cache all training and validation data of a spec.

    Test sets are read only to keep their examples out of training; they are not tokenised.

    Raises:
        DataError: If the data, the tokenizer or the chat template cannot be used.
        StorageError: If the cache cannot be written.
    """
    cache = Path(cache_dir)
    memo = memo_file(spec, cache)
    known = recall(memo)
    if known is not None:
        return known
    prepared = _prepare(spec, cache)
    if memo is not None:
        remember(memo, prepared)
    return prepared


def budget_in_samples(budget: Budget, train: TokenSet, order: SampleOrder) -> int:
    """A budget in samples.

    A budget in tokens is counted in target tokens along the sample order, up to and including the sample that
    reaches it; epochs are passes over the training rows. At least 1.
    """
    if budget.samples is not None:
        return budget.samples
    if budget.epochs is not None:
        return max(1, math.ceil(round(budget.epochs * len(train), 6)))
    assert budget.tokens is not None
    per_epoch = int(train.targets.sum(dtype=np.int64))
    epochs, left = divmod(budget.tokens, per_epoch)
    start = epochs * len(train)
    if not left:
        return start
    along = np.cumsum(train.targets[order.indices(start, start + len(train))], dtype=np.int64)
    return start + int(np.searchsorted(along, left)) + 1


def tokenise_tests(spec: SweepSpec, cache_dir: str | Path) -> dict[str, Tokenised]:
    """Every test set as a token set in the cache, by name.

    Raises:
        DataError: If a set or the tokenizer cannot be used, or no row of a set can be.
        StorageError: If the cache cannot be written.
    """
    sets = test_rows(spec.data)
    loaded = load_tokenizer(spec.model, chats=_has_chats(sets.values()))
    return {
        name: _tokenise(spec, Path(cache_dir), loaded, rows, name, "data.test")[0]
        for name, rows in sets.items()
    }


def _has_chats(sets: Iterable[Iterable[Row]]) -> bool:
    return any(row.form == "chat" for rows in sets for row in rows)


def _tokenise(
    spec: SweepSpec, cache: Path, loaded: LoadedTokenizer, rows: list[Row], name: str, key: str
) -> tuple[Tokenised, TokenSet]:
    """Rows as a token set in the cache, made where it is not there yet."""
    encoder = Encoder(loaded.tokenizer, loaded.chat, spec.data.max_length, spec.data.over_length)
    digest = hashlib.sha256(f"{encoder.fingerprint()}:{rows_digest(rows)}".encode()).hexdigest()
    folder = cache / f"tokens-{digest[:32]}"
    if not (folder / "meta.json").is_file():

        def counts() -> dict[str, Any]:
            return {"counts": dict(encoder.counts), "example": encoder.example}

        encoded = _at_least_one(encoder, rows, name, key)
        write_token_set(folder, encoded, digest=digest, vocab_size=len(loaded.tokenizer), extra=counts)
    tokens = TokenSet(folder)
    sizes = {size: tokens.meta[size] for size in ("rows", "tokens", "targets", "longest")}
    found = Tokenised(
        path=str(folder),
        digest=digest,
        domains=tokens.rows_by_domain,
        counts=tokens.meta["extra"]["counts"],
        **sizes,
    )
    return found, tokens


def _prepare(spec: SweepSpec, cache: Path) -> Prepared:
    split = split_data(spec.data)
    loaded = load_tokenizer(spec.model, chats=_has_chats((split.train, *split.validation.values())))
    warnings = [*split.check.warnings, *loaded.warnings]

    def tokenise(name: str, key: str, rows: list[Row]) -> Tokenised:
        found, tokens = _tokenise(spec, cache, loaded, rows, name, key)
        warnings.extend(_row_warnings(name, len(rows), tokens.meta["extra"]))
        _check_positions(name, tokens, loaded.max_positions, spec)
        return found

    train = tokenise("training data", "data.train", split.train)
    validation = tuple(
        ValidationData(
            name=h.name, weight=h.weight, data=tokenise(f"validation set {h.name}", "data.validation", rows)
        )
        for h, rows in zip(spec.data.validation, split.validation.values(), strict=True)
    )
    check_domains(spec, tuple(train.domains))  # again, without the rows that cannot be used
    order = SampleOrder(train.rows, spec.train.seed, train.digest)
    budget = budget_in_samples(spec.train.budget, TokenSet(train.path), order)
    _check_phases(spec, train, budget)
    return Prepared(
        train=train,
        validation=validation,
        test={c.name: c.used for c in split.check.sources if c.kind == "test"},
        budget_samples=budget,
        order=order.digest,
        tokenizer=str(loaded.save(cache)),
        vocab_size=len(loaded.tokenizer),
        model_vocab_size=loaded.model_vocab_size,
        model_type=loaded.model_type,
        pad_id=loaded.tokenizer.pad_token_id,
        end_ids=loaded.end_ids,
        tokens=loaded.policy(),
        sources=tuple(map(source_form, spec.data.train)),
        overlap_dropped=split.check.overlap_dropped,
        warnings=tuple(warnings),
    )


def _check_phases(spec: SweepSpec, train: Tokenised, budget: int) -> None:
    """Check that no phase is shorter than a sample; swept weights are taken as equal."""
    curriculum = spec.data.curriculum
    if not curriculum.phases:
        return
    shares = phase_shares(curriculum.model_copy(update={"strategy": "phased"}), train.domains) or ()
    for i, (share, _) in enumerate(shares):
        if share * budget < 1:
            rule = f"phase {i} has less than one of the {budget} samples of the budget"
            remedy = "raise its share or train.budget, or leave the phase out"
            raise DataError([Problem("data", f"data.phases.{i}", rule, remedy, round(share, 6))])


def _at_least_one(encoder: Encoder, rows: list[Row], name: str, key: str) -> Iterator[TokenRow]:
    yield from encoder.encode(rows)
    if not encoder.counts["kept"]:
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(encoder.counts.items()) if n)
        examples = "; ".join(f"{reason}: {place}" for reason, place in sorted(encoder.example.items()))
        remedy = f"look at one of each: {examples}"
        raise DataError([Problem(name, key, f"none of {len(rows)} rows can be used ({why})", remedy)])


_OUTCOMES: Final[Mapping[str, str]] = {
    "no_target": "have no targets and are left out",
    "over_length": "are longer than data.max_length and are left out",
    "truncated": "are longer than data.max_length and are cut off",
    "refused": "are refused by the chat template and are left out",
    "special_in_text": "spell a special token in their text, which is tokenised as that token",
    "not_as_written": "have assistant text that the chat template changes or does not mark",
}


def _row_warnings(name: str, rows: int, extra: Mapping[str, Any]) -> Iterator[str]:
    for outcome, words in _OUTCOMES.items():
        if n := extra["counts"].get(outcome):
            yield f"{name}: {n} of {rows} rows {words}, e.g. {extra['example'][outcome]}"


def _check_positions(name: str, tokens: TokenSet, positions: int | None, spec: SweepSpec) -> None:
    longest = int(tokens.lengths.max())
    if positions is not None and longest > positions:
        rule = f"the longest row has {longest} tokens, and the model has only {positions} positions"
        remedy = f"write data.max_length: {positions} or less"
        raise DataError([Problem(name, "data.max_length", rule, remedy, spec.data.max_length)])
