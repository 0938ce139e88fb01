"""Prepare the data of a sweep before its first trial: read, split, tokenise, cache, and resolve the budget to samples.

`prepare` tokenises and therefore imports transformers and torch, which the driver must not. The driver calls
`prepare_in_child`, which reuses an earlier result or runs `prepare` in a child process, and returns a small `Prepared`
of paths, digests and counts. Test sets are tokenised only after the search (`load_test_sets`); before that they are
read only to remove their examples from training.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sweepft.bounded_json import read_json_file
from sweepft.children import run_module
from sweepft.data.base_model import check_base_model
from sweepft.data.cache import TokenRow, TokenSet, write_token_set
from sweepft.data.encode import rows_digest
from sweepft.data.order import SampleOrder, phase_shares
from sweepft.data.outcomes import Outcomes, check_lost
from sweepft.data.prepared import Prepared, Tokenised, ValidationData, memo_file, recall, remember
from sweepft.data.rows import Row
from sweepft.data.source_form import source_form
from sweepft.data.split import RowSet, check_domains, split_data, test_rows
from sweepft.data.survey import Survey, check_positions, new_encoder, outcomes_of
from sweepft.data.target_text import target_text
from sweepft.data.tokenizer import LoadedTokenizer, load_tokenizer
from sweepft.errors import DataError, Problem, StorageError, SweepftError
from sweepft.spec.sections import Budget, Validation
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


def survey_in_child(spec: SweepSpec) -> Survey:
    """`survey` in a child process: for commands that import neither transformers nor torch.

    Raises:
        DataError: As `survey`.
        SweepftError: If the process failed in another way, with the end of its output.
    """
    return Survey.from_dict(_in_child(spec, "", "survey"))


def view_in_child(
    spec: SweepSpec, *, rows: Sequence[str] = (), first: int = 1, every: bool = False
) -> dict[str, Any]:
    """`view_data` in a child process: for commands that import neither transformers nor torch.

    Raises:
        DataError: As `view_data`.
        SweepftError: If the process failed in another way, with the end of its output.
    """
    options = {"rows": list(rows), "first": first, "every": every}
    return dict(_in_child(spec, "", "view", options))


def _in_child(
    spec: SweepSpec, cache_dir: str | Path, what: str, options: Mapping[str, Any] | None = None
) -> Any:
    """Run ``python -m sweepft.data`` and return its answer: plain data."""
    with tempfile.TemporaryDirectory(prefix="sweepft-data-") as folder:
        outcome = Path(folder) / "outcome.json"
        job: dict[str, Any] = {
            "spec": spec.to_dict(),
            "cache_dir": str(cache_dir),
            "outcome": str(outcome),
            "what": what,
            "options": options,
        }
        done = run_module("sweepft.data", job=job)
        answer: Mapping[str, Any] = read_json_file(outcome) if outcome.is_file() else {}
    if what in answer:
        return answer[what]
    if "problems" in answer:
        raise DataError([Problem(**problem) for problem in answer["problems"]])
    if "storage" in answer:
        raise StorageError(answer["storage"])
    raise SweepftError(
        f"preparing the data failed (exit status {done.returncode}):\n{done.tail}", key="data.child"
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
        name: _tokenise(
            spec, Path(cache_dir), loaded, [RowSet("test", f"test set {name}", "data.test", rows)], 1.0
        )[0]
        for name, rows in sets.items()
    }


def _has_chats(sets: Iterable[Iterable[Row]]) -> bool:
    return any(row.form == "chat" for rows in sets for row in rows)


def _tokenise(
    spec: SweepSpec, cache: Path, loaded: LoadedTokenizer, parts: Sequence[RowSet], max_lost: float
) -> tuple[Tokenised, TokenSet, list[Outcomes]]:
    """The rows of one or more sources as one token set in the cache, made where it is not there yet.

    Raises:
        DataError: If no row of a source can be used, or more than `max_lost` of its rows cannot.
    """
    encoder = new_encoder(spec, loaded)
    rows = [row for part in parts for row in part.rows]
    digest = hashlib.sha256(f"{encoder.fingerprint()}:{rows_digest(rows)}".encode()).hexdigest()
    sizes = ".".join(str(len(part.rows)) for part in parts)  # outcomes are kept by source
    name = digest if len(parts) == 1 else hashlib.sha256(f"{digest}:{sizes}".encode()).hexdigest()
    folder = cache / f"tokens-{name[:32]}"
    if not (folder / "meta.json").is_file():
        found: list[Outcomes] = []

        def encoded() -> Iterator[TokenRow]:
            for part in parts:
                one = new_encoder(spec, loaded)
                yield from one.encode(part.rows)
                found.append(outcomes_of(part, one))
            check_lost(found, max_lost)

        def extra() -> dict[str, Any]:
            return {"parts": [[dict(one.counts), dict(one.example)] for one in found]}

        write_token_set(folder, encoded(), digest=digest, vocab_size=len(loaded.tokenizer), extra=extra)
    tokens = TokenSet(folder)
    outcomes = [
        Outcomes(part.name, part.key, len(part.rows), counts, example)
        for part, (counts, example) in zip(parts, tokens.meta["extra"]["parts"], strict=True)
    ]
    check_lost(outcomes, max_lost)
    done = Tokenised(
        path=str(folder),
        digest=digest,
        domains=tokens.rows_by_domain,
        counts=sum((Counter(one.counts) for one in outcomes), Counter[str]()),
        **{size: tokens.meta[size] for size in ("rows", "tokens", "targets", "longest")},
    )
    return done, tokens, outcomes


def _prepare(spec: SweepSpec, cache: Path) -> Prepared:
    split = split_data(spec.data)
    sets = [one for one in split.sets() if one.rows]
    loaded = load_tokenizer(spec.model, chats=_has_chats(one.rows for one in sets))
    about_model = check_base_model(spec, loaded.new_ids)
    warnings = [*split.check.warnings, *loaded.warnings, *about_model]

    def tokenise(parts: Sequence[RowSet]) -> Tokenised:
        found, tokens, outcomes = _tokenise(spec, cache, loaded, parts, spec.data.max_lost)
        warnings.extend(warning for one in outcomes for warning in one.warnings())
        check_positions(parts[0].key, int(tokens.lengths.max()), loaded.max_positions, spec)
        return found

    train = tokenise([one for one in sets if one.kind == "train"])
    held = [tokenise([one]) for one in sets if one.kind == "validation"]
    validation = tuple(
        _validation(h, data, loaded) for h, data in zip(spec.data.validation, held, strict=True)
    )
    for one in sets:
        if one.kind == "test":  # looked at only; it is stored when finalists are scored
            encoder = new_encoder(spec, loaded)
            longest = max((len(ids) for ids, _, _ in encoder.encode(one.rows)), default=0)
            outcomes = outcomes_of(one, encoder)
            check_lost([outcomes], spec.data.max_lost)
            check_positions(one.key, longest, loaded.max_positions, spec)
            warnings.extend(outcomes.warnings())
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
        new_ids=loaded.new_ids,
        overlap_dropped=split.check.overlap_dropped,
        warnings=tuple(warnings),
        notes=split.check.notes,
    )


def _validation(held: Validation, data: Tokenised, loaded: LoadedTokenizer) -> ValidationData:
    size, digest = target_text(TokenSet(data.path), loaded.tokenizer)
    return ValidationData(name=held.name, weight=held.weight, data=data, text_bytes=size, text_digest=digest)


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
