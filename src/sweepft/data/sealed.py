"""The sealed test sets, tokenised once the search is over; till then only their overlap with training is seen."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweepft.data.cache import TokenSet, write_token_set
from sweepft.data.prepared import Tokenised
from sweepft.data.split import sealed_rows
from sweepft.errors import DataError, Problem, SweepftError
from sweepft.spec.sweep import SweepSpec

__all__ = ["open_tests", "tokenise_tests"]


def open_tests(spec: SweepSpec, cache_dir: str | Path) -> dict[str, Tokenised]:
    """`tokenise_tests` in a process of its own: for the driver, which imports neither transformers nor torch.

    Raises:
        DataError: If a set or the tokenizer cannot be used.
        SweepftError: If the process failed in another way; its last words are in the message.
    """
    if not spec.data.test:
        return {}
    with tempfile.TemporaryDirectory(prefix="sweepft-tests-") as folder:
        outcome = Path(folder) / "outcome.json"
        job = {"spec": spec.to_dict(), "cache_dir": str(cache_dir), "outcome": str(outcome), "tests": True}
        command = [sys.executable, "-m", "sweepft.data"]
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
        answer: Mapping[str, Any] = json.loads(outcome.read_text()) if outcome.is_file() else {}
    if "tests" in answer:
        return {name: Tokenised.model_validate(found) for name, found in answer["tests"].items()}
    if "problems" in answer:
        raise DataError([Problem(**problem) for problem in answer["problems"]])
    tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
    raise SweepftError(f"reading the sealed test sets failed (exit status {done.returncode}):\n{tail}")


def tokenise_tests(spec: SweepSpec, cache_dir: str | Path) -> dict[str, Tokenised]:
    """Every test set as a token set in the cache, by name.

    Raises:
        DataError: If a set or the tokenizer cannot be used, or no row of a set can be.
        StorageError: If the cache cannot be written.
    """
    from sweepft.data.encode import Encoder, rows_digest
    from sweepft.data.tokenizer import load_tokenizer

    sets = sealed_rows(spec.data)
    chats = any(row.form == "chat" for rows in sets.values() for row in rows)
    loaded = load_tokenizer(spec.model, chats=chats)
    found = {}
    for name, rows in sets.items():
        encoder = Encoder(loaded.tokenizer, loaded.chat, spec.data.max_length, spec.data.over_length)
        digest = hashlib.sha256(f"{encoder.fingerprint()}:{rows_digest(rows)}".encode()).hexdigest()
        folder = Path(cache_dir) / f"tokens-{digest[:32]}"
        if not (folder / "meta.json").is_file():
            encoded = list(encoder.encode(rows))
            if not encoded:
                why = ", ".join(f"{n} {reason}" for reason, n in sorted(encoder.counts.items()) if n)
                rule = f"none of its {len(rows)} rows can be used ({why})"
                raise DataError([Problem(name, "data.test", rule, "look at the rows of the set")])
            extra = {"counts": dict(encoder.counts), "example": encoder.example}
            write_token_set(
                folder, encoded, digest=digest, vocab_size=len(loaded.tokenizer), extra=extra.copy
            )
        meta = TokenSet(folder).meta
        sizes = {key: meta[key] for key in ("rows", "tokens", "targets", "longest")}
        found[name] = Tokenised(path=str(folder), digest=digest, counts=meta["extra"]["counts"], **sizes)
    return found
