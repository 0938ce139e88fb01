"""The result of preparing data, and its memo file.

The memo is named by the SHA-256 of the whole input (spec, bytes of every file, library versions), so that a repeated or
resumed sweep starts without loading a tokenizer.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from sweepft.data.cache import CACHE_FORMAT, TokenSet
from sweepft.data.files import is_local, local_files
from sweepft.errors import DataError, StorageError
from sweepft.files import atomic_write
from sweepft.spec.sweep import SweepSpec

_PREPARED_FORMAT: Final = 11


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tokenised(_Fact):
    """A token set on disk: open it with ``TokenSet(path)``."""

    path: str
    digest: str
    """SHA-256 of everything that changes a token."""
    rows: int
    tokens: int
    targets: int
    """Trained-on tokens."""
    longest: int
    """Tokens of the longest row."""
    domains: dict[str, int] = {}
    """Rows by domain, in the order of the domains' numbers; the empty name is that of rows without one."""
    counts: dict[str, int]
    """Rows by outcome: `kept`, `truncated`, `no_target`, `over_length`, `refused`, ..."""


class ValidationData(_Fact):
    """A tokenised validation set and its weight in the objective."""

    name: str
    weight: float
    data: Tokenised
    text_bytes: int | None = None
    """UTF-8 bytes of the text of its target tokens."""
    text_digest: str | None = None
    """SHA-256 of that text without white space: equal where models with different tokenizers predict the same text."""


class SourceForm(_Fact):
    """A training source as other libraries read it."""

    path: str
    """File or hub id."""
    split: str
    """Split of a hub data set."""
    builder: str | None
    """Name of the builder in `datasets`; None for a hub data set."""
    config: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Revision of a hub data set."""
    files: tuple[str, ...] = ()
    """Files of a pattern or folder."""
    form: str
    """Of the first row: `messages`, `prompt_completion`, `chat_prompt_completion` (of messages), `text` or `other`."""
    tools: bool = False
    """Whether rows have a column `tools`."""
    variables: bool = False
    """Whether all rows have a column `chat_template_kwargs`."""
    unread: tuple[str, ...] = ()
    """Columns and keys of messages that sweepft reads and TRL does not."""


class TokenPolicy(_Fact):
    """Special tokens by name, for files that people and other tools read."""

    ends: tuple[str, ...] = ()
    """Tokens that end an answer, in the order of `end_ids`."""
    ends_turns: bool = False
    """Whether the first of them ends the turns of the chat template."""
    appended: str | None = None
    """The end of a turn, if the template writes it only as the beginning of the next one: put behind a last answer."""
    turn_end: str | None = None
    """The end of a turn, if the saved tokenizer has it as eos token in place of the base model's."""
    added: tuple[str, ...] = ()
    """Tokens that the chat template needs and the base model's tokenizer lacks."""
    template: Literal["none", "plain", "marked"] = "none"
    """The chat template: none, or one without or with generation marks."""
    tool_template: bool = False
    """Whether rows with tools have a template of their own."""


class Prepared(_Fact):
    """Data and tokenizer of a sweep, as the ledger and every rank get them."""

    train: Tokenised
    validation: tuple[ValidationData, ...]
    test: dict[str, int]
    """Rows of each test set; they are tokenised after the search."""
    budget_samples: int
    """Samples every trial trains on."""
    order: str
    """Digest of the sample order with `train.seed` and no curriculum; a budget in tokens is counted along it."""
    tokenizer: str
    """Folder of the tokenizer as used, with template, pad and added tokens: it goes with the weights."""
    vocab_size: int
    """Ids the tokenizer can give: embeddings with fewer rows must grow to this."""
    model_vocab_size: int | None
    """Embedding rows of the base model, where its config.json has them."""
    model_type: str | None = None
    """Family of the base model by its config.json."""
    pad_id: int
    end_ids: tuple[int, ...]
    """Ids that end a generation: of the turn, and of the text."""
    tokens: TokenPolicy = TokenPolicy()
    """The same tokens by name, and the kind of the chat template."""
    sources: tuple[SourceForm, ...] = ()
    """Training sources, in the order of the spec."""
    new_ids: tuple[int, ...] = ()
    """Ids of tokens that the base model has never seen: adapters train their embeddings."""
    overlap_dropped: int
    """Training rows left out because they are also in a validation or test set."""
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What was read as what, and which columns are not used."""

    @property
    def tokens_per_sample(self) -> float:
        """Mean target tokens of a training row."""
        return self.train.targets / self.train.rows


def memo_file(spec: SweepSpec, cache: Path) -> Path | None:
    """Memo file of exactly this input; None when not all of it is on this machine."""
    paths = [spec.model.path, *(s.path for s in spec.data.train), *(t.path for t in spec.data.test)]
    paths += [h.path for h in spec.data.validation if h.path is not None]
    if spec.model.chat_template is not None and is_local(spec.model.chat_template):
        paths.append(spec.model.chat_template)
    if not all(is_local(path) for path in paths):
        return None
    digest = hashlib.sha256()
    what = spec.to_dict()
    known = [
        what["model"],
        what["data"],
        what["train"]["budget"],
        what["train"].get("lora"),
        {key: value for key, value in what["search"]["space"].items() if key.startswith("lora")},
        spec.train.seed,
        _PREPARED_FORMAT,
        CACHE_FORMAT,
    ]
    versions = [importlib.metadata.version(name) for name in ("sweepft", "transformers", "tokenizers")]
    digest.update(json.dumps([known, versions], sort_keys=True).encode())
    for path in paths:
        for file in _files(Path(path)):
            digest.update(str(file).encode() if file != Path(path) else b"")  # names make splits and order
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return cache / f"prepared-{digest.hexdigest()[:32]}.json"


def _files(path: Path) -> list[Path]:
    """The file itself, or those of a pattern; of a folder all files but weights, which change no token."""
    if not path.is_dir():
        return local_files(str(path))
    weights = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5")
    return sorted(file for file in path.rglob("*") if file.is_file() and file.suffix not in weights)


def recall(memo: Path | None) -> Prepared | None:
    """A memo written earlier, if all the files it names still exist."""
    if memo is None or not memo.is_file():
        return None
    try:
        known = Prepared.model_validate_json(memo.read_bytes())
        for tokenised in (known.train, *(h.data for h in known.validation)):
            if TokenSet(tokenised.path).digest != tokenised.digest:
                return None
    except (ValueError, DataError):
        return None  # an old format, or a cache that was cleared: made again
    return known if Path(known.tokenizer, "tokenizer.json").is_file() else None


def remember(file: Path, prepared: Prepared) -> None:
    """Write a memo, atomically.

    Raises:
        StorageError: If the disk is full or read-only.
    """
    try:
        atomic_write(file, prepared.model_dump_json(indent=1))
    except OSError as error:
        raise StorageError(f"{file}: cannot be written: {error}") from error
