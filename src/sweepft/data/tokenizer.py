"""The base model's tokenizer, completed for fine-tuning.

Base models often lack a chat template or a pad token. What is missing is added once and saved beside the token caches;
the same folder is exported with the trained weights, so that inference uses the tokens of training.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sweepft.data.templates import ChatFormat, choose_template
from sweepft.errors import DataError, Problem, StorageError
from sweepft.spec.sections import Model

_PADS: Final = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>")  # the last one is Llama 3's


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer ready for use.

    Attributes:
        tokenizer: A fast transformers tokenizer with a pad token and, where needed, a chat template.
        chat: The chat format; None if no row is a conversation.
        end_ids: Ids that end a generation.
        model_vocab_size: Embedding rows by the model's config, if known.
        max_positions: Positions by the model's config, if it has a hard limit.
        model_type: Family of the model by its config.
        warnings: One sentence each.
    """

    tokenizer: Any
    chat: ChatFormat | None
    end_ids: tuple[int, ...]
    model_vocab_size: int | None
    max_positions: int | None
    model_type: str | None
    warnings: tuple[str, ...]

    def save(self, cache: Path) -> Path:
        """Save as ``tokenizer-DIGEST`` in `cache`, all or nothing; returns the folder.

        Raises:
            StorageError: If it cannot be written.
        """
        t = self.tokenizer
        special = {name: str(token) for name, token in t.special_tokens_map.items()}
        what = [t.backend_tokenizer.to_str(), t.chat_template, special, t.model_max_length]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        folder = cache / f"tokenizer-{digest[:32]}"
        if not folder.is_dir():
            temporary = cache / f".tmp-tokenizer-{uuid.uuid4().hex[:8]}"
            try:
                self.tokenizer.save_pretrained(temporary)
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
    warnings = []
    if tokenizer.pad_token is None:
        known = tokenizer.get_vocab()
        pad = next((token for token in _PADS if token in known), _PADS[0])
        tokenizer.add_special_tokens({"pad_token": pad})
        how = "of its vocabulary is used" if pad in known else "was added"
        warnings.append(f"the tokenizer has no pad token: {pad} {how}")
    chat = None
    if chats or model.chat_template is not None:
        template = choose_template(tokenizer, model.chat_template, model.path)
        chat = ChatFormat(tokenizer, template)
        if chat.end_of_turn is None:
            warnings.append(
                "the chat template ends no assistant turn with a special token: nothing teaches a stop"
            )
        if "strftime_now" in template:
            warnings.append("the chat template writes today's date into every row")
    text_config = config.get_text_config()
    return LoadedTokenizer(
        tokenizer=tokenizer,
        chat=chat,
        end_ids=_end_ids(tokenizer, chat),
        model_vocab_size=getattr(text_config, "vocab_size", None),
        max_positions=getattr(text_config, "max_position_embeddings", None),
        model_type=getattr(config, "model_type", None),
        warnings=tuple(warnings),
    )


def _end_ids(tokenizer: Any, chat: ChatFormat | None) -> tuple[int, ...]:
    ids = [tokenizer.convert_tokens_to_ids(chat.end_of_turn)] if chat and chat.end_of_turn else []
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(ids))
