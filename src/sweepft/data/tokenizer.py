"""The base model's tokenizer, completed for fine-tuning.

Base models often lack a chat template or a pad token. What is missing is added once and saved beside the token caches;
the same folder is exported with the trained weights, so that inference uses the tokens of training. The tokens that end
an answer are found here, and go with the prepared data to every rank (``sweepft.training.generation``).
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sweepft.data.generation_marks import training_file, without_marks
from sweepft.data.prepared import TokenPolicy
from sweepft.data.template_choice import choose_template
from sweepft.data.templates import ChatFormat, special_tokens
from sweepft.data.weight_files import own_file, untrained
from sweepft.errors import DataError, Problem, StorageError
from sweepft.files import atomic_write
from sweepft.spec.sections import Model

_PADS: Final = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>")  # the last one is Llama 3's
_SENTENCEPIECE: Final = (
    "tokenizer.model"  # transformers 5 reads tokenizer.json alone, older programs want this one
)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer ready for use.

    Attributes:
        tokenizer: A fast transformers tokenizer with a pad token and, where needed, a chat template.
        chat: The chat format; None if no row is a conversation.
        end_ids: Ids that end a generation: of the turn, of the text, and what else ends one of the base model.
        new_ids: Ids of tokens that rows may hold and the base model has never seen: its tokenizer lacked them, its
            embeddings do, or their embeddings are zero.
        turn_end: Token for the saved tokenizer's ``eos_token``, if its own does not end a turn.
        added: Tokens that the chat template needs and the model's tokenizer lacks.
        model_vocab_size: Embedding rows by the model's config, if known.
        max_positions: Positions by the model's config, if it has a hard limit.
        model_type: Family of the model by its config.
        sentencepiece: The model's ``tokenizer.model``, if it has one that holds all of the tokenizer's tokens.
        warnings: One sentence each.
    """

    tokenizer: Any
    chat: ChatFormat | None
    end_ids: tuple[int, ...]
    new_ids: tuple[int, ...]
    turn_end: str | None
    added: tuple[str, ...]
    model_vocab_size: int | None
    max_positions: int | None
    model_type: str | None
    sentencepiece: Path | None
    warnings: tuple[str, ...]

    def policy(self) -> TokenPolicy:
        """Its special tokens by name."""
        ends = self.tokenizer.convert_ids_to_tokens(list(self.end_ids))
        kind: Literal["none", "plain", "marked"] = "none"
        if self.chat is not None:
            kind = "marked" if self.chat.marked else "plain"
        return TokenPolicy(
            ends=tuple(ends),
            ends_turns=self.chat is not None and self.chat.end_of_turn is not None,
            appended=self.chat.end_of_turn if self.chat is not None and self.chat.appended else None,
            turn_end=self.turn_end,
            added=self.added,
            template=kind,
            tool_template=self.chat is not None and self.chat.with_tools is not None,
        )

    def save(self, cache: Path) -> Path:
        """Save as ``tokenizer-DIGEST`` in `cache`, all or nothing; returns the folder.

        All chat templates of the tokenizer are saved, without generation marks; those with marks are saved beside them.
        Where turns end with another token than the text, that one is the saved ``eos_token``, as programs that generate
        expect.

        Raises:
            StorageError: If it cannot be written.
        """
        t = copy.deepcopy(self.tokenizer)
        named = t.chat_template if isinstance(t.chat_template, dict) else {"default": t.chat_template or ""}
        plain = {name: without_marks(template) for name, template in named.items()}
        marked = {training_file(name): text for name, text in named.items() if text != plain[name]}
        if t.chat_template:
            t.chat_template = plain if isinstance(t.chat_template, dict) else plain["default"]
        if self.turn_end is not None:
            t.eos_token = self.turn_end
        special = {name: str(token) for name, token in t.special_tokens_map.items()}
        pieces = self.sentencepiece and hashlib.sha256(self.sentencepiece.read_bytes()).hexdigest()
        what = [t.backend_tokenizer.to_str(), t.chat_template, special, t.model_max_length, marked, pieces]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        folder = cache / f"tokenizer-{digest[:32]}"
        if not folder.is_dir():
            temporary = cache / f".tmp-tokenizer-{uuid.uuid4().hex[:8]}"
            try:
                t.save_pretrained(temporary)
                for name, template in marked.items():
                    atomic_write(temporary / name, template, mode=0o666)
                if self.sentencepiece is not None:
                    shutil.copyfile(self.sentencepiece, temporary / _SENTENCEPIECE)
                temporary.rename(folder)
            except OSError as error:
                if not folder.is_dir():  # not another writer's
                    raise StorageError(f"{folder}: the tokenizer cannot be written: {error}") from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return folder


def load_tokenizer(model: Model, *, chats: bool) -> LoadedTokenizer:
    """Load a model's tokenizer; add a pad token, choose the chat template.

    Args:
        model: The spec's section.
        chats: Whether any row is a conversation, so that a template is needed.
    Raises:
        DataError: If it cannot be loaded, cannot tell character offsets, or has no usable chat template.
    """
    from transformers import AutoConfig, AutoTokenizer

    where = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    where = {key: value for key, value in where.items() if value is not None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path, **where)
        config = AutoConfig.from_pretrained(model.path, **where)
    except Exception as error:  # its own, the hub's, the file system's; remote code can raise anything
        rule = f"the tokenizer must be loadable: {type(error).__name__}: {error}"
        remedy = "save it there with tokenizer.save_pretrained; for a hub id check name, revision and network"
        raise DataError([Problem(model.path, "model.path", rule, remedy)]) from error
    if not tokenizer.is_fast:
        rule = "the tokenizer must be a fast one (tokenizer.json), which maps tokens to characters"
        remedy = "convert it with transformers and save it beside the weights"
        raise DataError([Problem(model.path, "model.path", rule, remedy, type(tokenizer).__name__)])
    text_config = config.get_text_config()
    warnings = []
    known = frozenset(tokenizer.get_vocab())
    if tokenizer.pad_token is None:
        pad = next((token for token in _PADS if token in known), _PADS[0])
        tokenizer.add_special_tokens({"pad_token": pad})
        how = "of its vocabulary is used" if pad in known else "was added"
        warnings.append(f"the tokenizer has no pad token: {pad} {how}")
    chat, before, eos = None, set(tokenizer.get_vocab()), tokenizer.eos_token
    if chats or model.chat_template is not None:
        if model.chat_template is None:
            _restore_marks(tokenizer, model)
        template, tool_template = choose_template(
            tokenizer, model.chat_template, model.path, model.chat_template_kwargs
        )
        own = tokenizer.convert_ids_to_tokens(_own_ends(tokenizer, model, text_config))
        chat = ChatFormat(tokenizer, template, tool_template=tool_template, ends=own)
        warnings += _about_ends(chat)
        if any("strftime_now" in text for text in chat.templates):
            warnings.append("the chat template writes today's date into every row")
    end_ids = _end_ids(tokenizer, chat, model, text_config)
    new = _new_tokens(tokenizer, known, end_ids, getattr(text_config, "vocab_size", None))
    if new:
        shown = ", ".join(list(new)[:3]) + (f" and {len(new) - 3} more" if len(new) > 3 else "")
        warnings.append(
            f"the model has never seen {shown}: embeddings start from random values and are learned"
        )
    unused = _untrained_tokens(tokenizer, chat, model, end_ids)
    if unused:
        warnings.append(
            f"the base model was not trained on {', '.join(unused)}: their embeddings are zero, and are learned"
        )
    return LoadedTokenizer(
        tokenizer=tokenizer,
        chat=chat,
        end_ids=end_ids,
        new_ids=tuple(sorted({*new.values(), *unused.values()})),
        turn_end=_turn_end(tokenizer, chat, eos) if chat and chats else None,
        added=tuple(sorted(set(tokenizer.get_vocab()) - before)),
        model_vocab_size=getattr(text_config, "vocab_size", None),
        max_positions=_max_positions(text_config),
        model_type=getattr(config, "model_type", None),
        sentencepiece=own_file(model.path, model.revision, _SENTENCEPIECE)
        if tokenizer.get_vocab().keys() == known
        else None,
        warnings=tuple(warnings),
    )


def _restore_marks(tokenizer: Any, model: Model) -> None:
    """Give the tokenizer of a folder that an earlier sweep exported its templates with marks."""
    own = tokenizer.chat_template
    restored = dict(own) if isinstance(own, dict) else {"default": own}
    for name, template in restored.items():
        found = own_file(model.path, model.revision, training_file(name))
        marked = None if found is None else found.read_text(encoding="utf-8")
        if marked is not None and without_marks(marked) == template:  # else it was changed since
            restored[name] = marked
    tokenizer.chat_template = restored if isinstance(own, dict) else restored["default"]


def _about_ends(chat: ChatFormat) -> Iterator[str]:
    """What a user has to know of the end of turns."""
    if chat.end_of_turn is None:
        yield (
            "the chat template ends no assistant turn with a special token: nothing teaches a stop. Name a template "
            "that does (model.chat_template), or list the token that begins a user turn, if the model knows it, under "
            "eos_token_id in the base model's generation_config.json"
        )
    elif chat.appended:
        yield (
            f"the chat template ends an answer with the next turn's token: {chat.end_of_turn} is put behind the last "
            "answer of each row, because the base model's generation config ends answers with it"
        )


def _end_ids(tokenizer: Any, chat: ChatFormat | None, model: Model, config: Any) -> tuple[int, ...]:
    """Ids that end a generation, the turn's first. Of the base model's own, special tokens only."""
    ids = [tokenizer.convert_tokens_to_ids(chat.end_of_turn)] if chat and chat.end_of_turn else []
    ids += [tokenizer.eos_token_id, *_own_ends(tokenizer, model, config)]
    return tuple(dict.fromkeys(i for i in ids if i is not None))


def _own_ends(tokenizer: Any, model: Model, config: Any) -> list[int]:
    """Special tokens at which the base model's generation config ends a generation."""
    from transformers import GenerationConfig

    try:
        own = GenerationConfig.from_pretrained(model.path, revision=model.revision).eos_token_id
    except (OSError, ValueError):  # there is none
        own = getattr(config, "eos_token_id", None)
    special = {
        *tokenizer.all_special_ids,
        *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special),
    }
    return [i for i in (own if isinstance(own, list) else [own]) if i in special]


def _turn_end(tokenizer: Any, chat: ChatFormat, eos: str | None) -> str | None:
    """The end of a turn, if it is not the model's eos token, and neither template nor tokenizer writes that one."""
    if (
        chat.end_of_turn in (None, eos)
        or chat.appended
        or any("eos_token" in text for text in chat.templates)
    ):
        return None
    adds_eos = eos is not None and tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"])[-1:] == [eos]
    return None if adds_eos else chat.end_of_turn


def _new_tokens(
    tokenizer: Any, known: Collection[str], end_ids: Sequence[int], rows: int | None
) -> dict[str, int]:
    """Tokens that the base model has never seen, by id. A pad token is none of them: no row holds it."""
    vocabulary = tokenizer.get_vocab()
    new = ((t, i) for t, i in vocabulary.items() if t not in known or (rows is not None and i >= rows))
    pad = tokenizer.pad_token_id
    return dict(sorted(((t, i) for t, i in new if i != pad or i in end_ids), key=lambda item: item[1]))


def _untrained_tokens(
    tokenizer: Any, chat: ChatFormat | None, model: Model, end_ids: Sequence[int]
) -> dict[str, int]:
    """Tokens that the template writes, and that the base model has rows for but has never seen, by id."""
    if chat is None:
        return {}
    vocabulary = tokenizer.get_vocab()
    written = {vocabulary[t] for t in special_tokens(tokenizer) if any(t in text for text in chat.templates)}
    unused = untrained(Path(model.path), {*written, *end_ids[:1]})
    return {tokenizer.convert_ids_to_tokens(i): i for i in sorted(unused)}


def _max_positions(config: Any) -> int | None:
    """Positions by the config; None where rotary embeddings are scaled to any longer row (``dynamic``)."""
    rope = getattr(config, "rope_parameters", None) or {}
    if "dynamic" in str(rope.get("rope_type")):
        return None
    positions: int | None = getattr(config, "max_position_embeddings", None)
    return positions
