"""Loss masks with templates as they are published: those that TRL carries, and any in a folder of one's own.

The tokens are those of `apply_chat_template`. What is learned of each answer is computed again by it alone: the
conversation up to the answer, less the same up to its generation prompt. Where TRL has the template with marks too,
its mask is a third opinion. To try further templates, name a folder of ``*.jinja`` files in SWEEPFT_CHAT_TEMPLATES.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_chat_families import SHAPES
from test_templates import byte_level
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from sweepft.data.encode import Encoder
from sweepft.data.rows import Row
from sweepft.data.templates import ChatFormat

pytestmark = pytest.mark.full

_TOKENS = re.compile(
    r"<\|[^\s<>|]{2,40}\|>|<｜[^\s<>]{2,40}｜>|</?(?:s|bos|eos|start_of_turn|end_of_turn)>|<\|?turn\|?>|\[/?[A-Z_]{3,30}\]"
)
_ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<｜end▁of▁sentence｜>", "<|end_of_text|>"),
    *("<|END_OF_TURN_TOKEN|>", "</s>", "<|endoftext|>"),
)
_TEN = {
    *(
        "qwen2_5",
        "qwen3",
        "llama3",
        "llama3_1",
        "gemma",
        "gemma3",
        "phi3",
        "deepseekv3",
        "deepseek_r1_distill",
    ),
    *("gemma4_v5", "qwen3_instruct_2507", "cohere", "lfm2"),
}
"""Of TRL's templates those that are tried: of the families that people train."""


def _files() -> list[Path]:
    trl = importlib.util.find_spec("trl")
    own = os.environ.get("SWEEPFT_CHAT_TEMPLATES")
    found = (
        []
        if trl is None or trl.origin is None
        else sorted(Path(trl.origin).parent.glob("chat_templates/*.jinja"))
    )
    found = [file for file in found if file.stem in _TEN]
    return found + (sorted(Path(own).glob("*.jinja")) if own else [])


def _tokenizer(template: str) -> Any:
    known = sorted(set(_TOKENS.findall(template)))
    eos = next((token for token in _ENDS if token in known), "</s>")
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(byte_level().backend_tokenizer.to_str()),
        bos_token="<s>",
        eos_token=eos,
        pad_token=eos,
    )
    made.add_tokens(known, special_tokens=True)
    made.chat_template = template
    return made


@pytest.mark.parametrize("file", _files(), ids=lambda file: file.stem)
def test_published_template__learned_tokens(file: Path) -> None:
    template = file.read_text(encoding="utf-8")
    made = _tokenizer(template)
    form = ChatFormat(made, template)
    marked = file if form.marked else file.with_name(f"{file.stem}_training.jinja")
    compared = opinions = 0
    for shape, row in SHAPES.items():
        encoder = Encoder(made, form, 4096, "drop")
        encoded = list(encoder.encode([row]))
        assert encoded or encoder.counts["refused"] + encoder.counts["not_rendered"] == 1, encoder.counts
        if not encoded:
            continue
        [(ids, mask, _)] = encoded
        given = _given(form, made, row)
        assert ids.tolist() == made.apply_chat_template(**given)["input_ids"], shape
        if not form.marked:  # marks say what is learned
            compared += _compare_with_prompts(made, form, row)
        if marked.is_file() and all(turn.learn is not False for turn in row.content):  # type: ignore[union-attr]
            opinions += _compare_with_marks(
                made, marked.read_text(encoding="utf-8"), given, ids, np.asarray(mask)
            )
    assert compared >= 8 or form.marked
    assert not marked.is_file() or opinions >= 5


def _given(form: ChatFormat, made: Any, row: Row) -> dict[str, Any]:
    """Arguments of `apply_chat_template`, with those of calls as text where the template takes no objects."""
    taken = form._tracer._with_arguments(row.content, row.tools, False)  # type: ignore[arg-type]
    return {"conversation": [turn.message() for turn in taken], "tools": list(row.tools) or None}


def _compare_with_prompts(made: Any, form: ChatFormat, row: Row) -> int:
    """Compare each learned part with what follows the generation prompt; returns how many could be."""
    rendered = form.render(row.content, row.tools)  # type: ignore[arg-type]
    given = _given(form, made, row)
    spans, compared = iter(rendered.spans), 0
    for i, turn in enumerate(row.content):
        if turn.role != "assistant" or turn.learn is False:  # type: ignore[union-attr]
            continue
        start, stop = next(spans)

        def text(n: int, prompt: bool) -> str:
            part = {**given, "conversation": given["conversation"][:n]}
            return str(made.apply_chat_template(**part, add_generation_prompt=prompt, tokenize=False))

        try:
            prompt, whole = text(i, True), text(i + 1, False)
        except Exception:  # a template that refuses a part of a conversation
            continue
        prompt = prompt if whole.startswith(prompt) else re.sub(r"<think>\s*\Z", "", prompt)
        ending = whole[len(prompt) :].rstrip()
        if not whole.startswith(prompt) or not rendered.text.startswith(
            whole.rstrip().removesuffix(made.eos_token).rstrip()
        ):
            continue  # written otherwise once more follows
        learned = rendered.text[start:stop]
        assert (
            ending.lstrip().startswith(learned.strip())
            or ending.removesuffix(made.eos_token).strip() == learned.strip()
        )
        rest = ending[ending.index(learned.strip()) + len(learned.strip()) :]
        assert rest.strip() in ("", made.eos_token) or rest.lstrip().startswith("<"), rest
        compared += 1
    return compared


def _compare_with_marks(made: Any, marked: str, given: dict[str, Any], ids: Any, mask: Any) -> int:
    """TRL's mask is ours but for white space and special tokens beside the answers; returns 1 if it could be compared."""
    try:
        theirs = made.apply_chat_template(
            **given, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
        )
    except Exception:  # it does not take this conversation
        return 0
    if theirs["input_ids"] != ids.tolist():
        return 0  # another text
    other = np.flatnonzero(np.array(theirs["assistant_masks"], bool) != mask)
    beside = [made.decode([ids[i]]) for i in other]
    assert all(not text.strip() or _TOKENS.fullmatch(text.strip()) for text in beside), beside
    return 1
