"""Which tokens end an answer: of the turn, of the text, and of the base model; what the saved tokenizer says of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from support.errors import raises
from support.memorised import CHATML, base_model
from support.tiny import tiny_config, tiny_tokenizer
from sweepft.data.generation_marks import without_marks
from sweepft.data.prepared import TokenPolicy
from sweepft.data.rows import Turn
from sweepft.data.template_choice import BUILT_IN
from sweepft.data.tokenizer import LoadedTokenizer, load_tokenizer
from sweepft.errors import DataError
from sweepft.spec import Model

WORDS_END = """\
{%- for m in messages %}{{- m['role'] + ': ' + m['content'] + '\\n### End\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"""
READS_EOS = (
    "{%- for m in messages %}{{- m['role'] + m['content'] + '<|im_end|>' }}{%- endfor %}{{- eos_token }}"
)
SPACED = "{%- for m in messages %}{{- m['role'] + ' ' + m['content'] + ' ' + eos_token }}{%- endfor %}"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with one token more than the base tokenizer, to be copied and changed: `base_model` takes a second."""
    return base_model(tmp_path_factory.mktemp("ready") / "base", eos="<|endoftext|>")


def with_template(ready: Path, folder: Path, template: str | None, **files: dict[str, Any]) -> Path:
    shutil.copytree(ready, folder)
    place = folder / "chat_template.jinja"
    place.unlink()
    if template is not None:
        place.write_text(template)
    for name, changes in files.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def loaded(folder: Path, *, chats: bool = True, **model: Any) -> LoadedTokenizer:
    return load_tokenizer(Model(path=str(folder), **model), chats=chats)


@pytest.mark.parametrize(
    ("template", "model", "chats", "ends", "turn_end", "kind"),
    [
        (CHATML, {}, True, ("<|im_end|>", "<|endoftext|>"), "<|im_end|>", "plain"),
        (CHATML, {}, False, ("<|endoftext|>",), None, "none"),
        (BUILT_IN["plain"], {}, False, ("<|endoftext|>",), None, "none"),
        (READS_EOS, {}, True, ("<|im_end|>", "<|endoftext|>"), None, "plain"),
        (SPACED, {}, True, ("<|endoftext|>",), None, "plain"),
        (None, {"chat_template": "plain"}, True, ("<|endoftext|>",), None, "marked"),
        (None, {"chat_template": "chatml"}, True, ("<|im_end|>", "<|endoftext|>"), "<|im_end|>", "marked"),
    ],
    ids=["end-differs", "texts", "texts-and-marks", "template-reads-eos", "space-and-eos", "plain", "chatml"],
)
def test_load_tokenizer__knows_the_ends(
    ready: Path, tmp_path: Path, template: Any, model: Any, chats: bool, ends: Any, turn_end: Any, kind: str
) -> None:
    found = loaded(with_template(ready, tmp_path / "model", template), chats=chats, **model)
    expected = TokenPolicy(ends=ends, ends_turns=kind != "none", turn_end=turn_end, template=kind)
    assert found.policy() == expected
    assert found.end_ids == tuple(found.tokenizer.convert_tokens_to_ids(list(ends)))
    saved = AutoTokenizer.from_pretrained(found.save(tmp_path / "cache"))
    assert saved.eos_token == (turn_end or "<|endoftext|>")
    text = saved.chat_template or ""
    assert text == without_marks(text)


def test_load_tokenizer__further_ends_of_the_base_model_if_they_are_special(
    ready: Path, tmp_path: Path
) -> None:
    own = {"eos_token_id": [384, 1, 40]}
    found = loaded(with_template(ready, tmp_path / "model", CHATML, generation_config=own))
    assert found.policy().ends == ("<|im_end|>", "<|endoftext|>")


def test_load_tokenizer__turns_that_end_with_words(ready: Path, tmp_path: Path) -> None:
    found = loaded(with_template(ready, tmp_path / "model", WORDS_END))
    assert found.policy() == TokenPolicy(ends=("<|endoftext|>",), template="plain")
    assert any("nothing teaches a stop" in warning for warning in found.warnings)


def test_load_tokenizer__takes_the_marks_of_an_earlier_export(ready: Path, tmp_path: Path) -> None:
    first = loaded(with_template(ready, tmp_path / "model", None), chat_template="plain")
    exported = tmp_path / "exported"
    shutil.copytree(ready, exported)
    shutil.copytree(first.save(tmp_path / "cache"), exported, dirs_exist_ok=True)
    again = loaded(exported)
    assert again.chat is not None
    assert again.chat.template == BUILT_IN["plain"]
    (exported / "chat_template.jinja").write_text(CHATML)
    changed = loaded(exported)
    assert changed.chat is not None
    assert not changed.chat.marked, "the template was replaced since"


@pytest.mark.parametrize(
    ("zero", "learned"),
    [
        (["<|im_start|>", "<|im_end|>"], ["<|im_start|>", "<|im_end|>"]),
        (["<|im_end|>"], ["<|im_end|>"]),
        (["<|pad|>"], []),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_untrained_tokens__of_the_template_are_learned(
    ready: Path, tmp_path: Path, zero: list[str], learned: list[str], tied: bool
) -> None:
    """As in Llama 3's base models, whose header and end tokens are in the vocabulary with embeddings of zero."""
    from safetensors.torch import load_file, save_file

    folder = with_template(ready, tmp_path / "model", CHATML)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    if not tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    for name in weights.keys() & {"lm_head.weight", "model.embed_tokens.weight"}:
        weights[name][tokenizer.convert_tokens_to_ids(zero)] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = loaded(folder)
    assert list(found.new_ids) == sorted(tokenizer.convert_tokens_to_ids(learned))
    assert sum("was not trained on" in warning for warning in found.warnings) == bool(learned)
    assert loaded(ready).new_ids == ()


def test_untrained_tokens__with_one_embedding_that_is_not_zero_are_known(ready: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = with_template(ready, tmp_path / "model", CHATML)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.embed_tokens.weight"][:] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert loaded(folder).new_ids == ()


@pytest.mark.parametrize("chat_template", ["plain", "chatml"])
def test_saved_tokenizer__keeps_the_sentencepiece_file_if_no_token_was_added(
    tmp_path: Path, chat_template: str
) -> None:
    folder = tmp_path / "model"
    tiny_tokenizer().save_pretrained(folder)
    tiny_config("llama", 384).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace("<|im_start|>", "<|turn|>")
        (folder / name).write_text(text)
    (folder / "tokenizer.model").write_bytes(b"pieces")
    found = loaded(folder, chat_template=chat_template)
    saved = found.save(tmp_path / "cache")
    assert (saved / "tokenizer.model").is_file() is (chat_template == "plain")  # chatml adds its tokens
    assert AutoTokenizer.from_pretrained(saved)("a b")["input_ids"] == found.tokenizer("a b")["input_ids"]
    (folder / "tokenizer.model").write_bytes(b"others")
    again = loaded(folder, chat_template=chat_template).save(tmp_path / "cache")
    assert chat_template == "chatml" or (again / "tokenizer.model").read_bytes() == b"others"


GLM = """\
{%- for m in messages %}{{- '<|' + m['role'] + '|>\\n' + m['content'] }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""


@pytest.mark.parametrize("listed", [True, False])
def test_load_tokenizer__next_turns_token_ends_an_answer_if_the_base_model_lists_it(
    tmp_path: Path, listed: bool
) -> None:
    folder, roles = tmp_path / "model", ["<|user|>", "<|assistant|>", "<|observation|>"]
    own = tiny_tokenizer()
    own.add_tokens(roles, special_tokens=True)
    own.chat_template = GLM
    own.save_pretrained(folder)
    tiny_config("llama", len(own)).save_pretrained(folder)
    ends = [own.eos_token, "<|user|>", "<|observation|>"]
    ids = own.convert_tokens_to_ids(ends if listed else ends[:1])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    found = loaded(folder)
    policy = found.policy()
    assert policy.ends == (("<|user|>", own.eos_token, "<|observation|>") if listed else (own.eos_token,))
    assert policy.ends_turns is listed
    assert policy.appended == ("<|user|>" if listed else None)
    assert AutoTokenizer.from_pretrained(found.save(tmp_path / "cache")).eos_token == own.eos_token
    [warning] = [text for text in found.warnings if "chat template ends" in text]
    assert ("nothing teaches a stop" in warning) is not listed


DEFAULT = CHATML
TOOL_USE = (
    "{{- 'Tools: ' + (tools | map(attribute='function') | list | tojson) + '\\n' }}" + BUILT_IN["chatml"]
)
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def named(ready: Path, folder: Path, templates: dict[str, str]) -> Path:
    shutil.copytree(ready, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = templates
    for path in folder.glob("chat_template.jinja"):
        path.unlink()
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("marked", [True, False])
def test_named_templates__rows_with_tools_get_theirs_and_all_are_saved(
    ready: Path, tmp_path: Path, marked: bool
) -> None:
    templates = {
        "default": BUILT_IN["chatml"] if marked else DEFAULT,
        "tool_use": TOOL_USE if marked else without_marks(TOOL_USE),
        "rag": "{{- 'documents' }}",
    }
    folder = named(ready, tmp_path / "model", templates)
    found = loaded(folder)
    assert found.chat is not None
    plain = AutoTokenizer.from_pretrained(folder)
    chat = [Turn("user", "2 and 2?"), Turn("assistant", "4")]
    messages = [turn.message() for turn in chat]
    for tools in ((), (ADD,)):
        rendered = found.chat.render(chat, tools)
        assert rendered.text == plain.apply_chat_template(messages, tools=list(tools) or None, tokenize=False)
        assert [rendered.text[a:b] for a, b in rendered.spans] == ["4<|im_end|>"]
    assert found.policy().tool_template
    saved = found.save(tmp_path / "cache")
    exported = AutoTokenizer.from_pretrained(saved)
    assert exported.chat_template == {name: without_marks(text) for name, text in templates.items()}
    shutil.copy(folder / "config.json", saved)
    again = loaded(saved)  # a later sweep from an export
    assert again.chat is not None
    assert again.tokenizer.chat_template == templates
    assert again.chat.marked is marked


def test_named_templates__without_a_default_are_refused(ready: Path, tmp_path: Path) -> None:
    folder = named(ready, tmp_path / "model", {"tool_use": CHATML, "rag": CHATML})
    with raises(DataError, "model.chat_template") as caught:
        loaded(folder)
    assert "rag, tool_use" in str(caught.value)
    assert loaded(folder, chat_template="plain").policy().template == "marked"
