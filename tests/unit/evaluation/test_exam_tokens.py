"""The token ids of an exam's requests are those of training, for tokenizers that add BOS and templates that write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.memorised import CHATML, base_model, chat_rows, sweep_spec
from sweepft.data import TokenSet, prepare

pytest.importorskip("lm_eval")

WITH_BOS = "{{- bos_token }}" + CHATML


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("template", [CHATML, WITH_BOS, None], ids=["bare", "writes-bos", "built-in"])
def test_requests__have_the_ids_of_training(template: Any, adds_bos: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from sweepft.evaluation.harness import _InMemoryModel

    base = base_model(tmp_path / "base", template=template, adds_bos=adds_bos)
    spec = sweep_spec(base, chat_rows(), **({"chat_template": "plain"} if template is None else {}))
    prepared = prepare(spec, tmp_path / "cache")
    lm = _InMemoryModel(
        AutoModelForCausalLM.from_pretrained(base),
        prepared.tokenizer,
        1,
        ranks=1,
        synced=False,
        chat_template=True,
    )
    tokens = TokenSet(prepared.train.path)
    for i, row in enumerate(chat_rows()):
        ids, mask = tokens.row(i)
        prompt = lm.apply_chat_template(row["messages"][:1])
        expected = ids[: mask.argmax()].tolist()
        assert lm.tok_encode(prompt) == expected
        assert lm.tok_batch_encode([prompt])[0].tolist() == [expected]
        context, answer = lm._encode_pair(prompt, row["messages"][1]["content"])
        assert [*context, *answer] == ids[: len(context) + len(answer)].tolist()


def test_requests__without_a_chat_template_are_encoded_like_text_rows(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from sweepft.evaluation.harness import _InMemoryModel

    base = base_model(tmp_path / "base", template=None, adds_bos=True)
    prepared = prepare(sweep_spec(base, [{"text": "Grey hats are grey."}]), tmp_path / "cache")
    lm = _InMemoryModel(
        AutoModelForCausalLM.from_pretrained(base),
        prepared.tokenizer,
        1,
        ranks=1,
        synced=False,
        chat_template=True,
    )
    assert not lm.chats
    ids, _ = TokenSet(prepared.train.path).row(0)
    assert [*lm.tok_encode("Grey hats are grey."), lm.eot_token_id] == ids.tolist()
