"""Chat templates in the formats of the big families, written for this benchmark, without generation marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Template:
    """A chat template.

    Attributes:
        text: Jinja.
        end: Special token that ends an assistant turn; None: the tokenizer's eos.
        tokens: Other special tokens it writes.
    """

    text: str
    end: str | None
    tokens: tuple[str, ...] = ()


def _headed(begin: str, end: str, middle: str = "\n", after: str = "\n", assistant: str = "assistant") -> str:
    """Turns of a header with the role, the content, and an end token."""
    return (
        "{%- for m in messages %}"
        f"{{{{- {begin!r} + (({assistant!r}) if m['role'] == 'assistant' else m['role']) + {middle!r} "
        f"+ m['content'] + {end!r} + {after!r} }}}}"
        "{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {begin + assistant + middle!r} }}}}{{%- endif %}}"
    )


_INST: Final = (
    "{{- bos_token }}"
    "{%- for m in messages %}"
    "{%- if m['role'] == 'user' %}{{- '[INST] ' + m['content'] + ' [/INST]' }}"
    "{%- elif m['role'] == 'assistant' %}{{- ' ' + m['content'] + eos_token }}{%- endif %}"
    "{%- endfor %}"
)
_HEADERS: Final = ("<|start_header_id|>", "<|end_header_id|>")
_ROLES: Final = ("<|user|>", "<|assistant|>", "<|system|>")
_DEEPSEEK: Final = (
    "{{- bos_token }}"
    "{%- for m in messages %}"
    "{%- if m['role'] == 'user' %}{{- '<｜User｜>' + m['content'] }}"
    "{%- elif m['role'] == 'assistant' %}"
    "{%- set content = m['content'] %}"
    "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}"
    "{{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<｜Assistant｜>' }}{%- endif %}"
)

TEMPLATES: Final[dict[str, Template]] = {
    "chatml": Template(
        _headed("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<|im_start|>", "<|endoftext|>")
    ),
    "qwen3": Template(
        "{%- for m in messages %}"
        "{{- '<|im_start|>' + m['role'] + '\n' }}"
        "{%- if m['role'] == 'assistant' and loop.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
        "{{- m['content'] + '<|im_end|>\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{%- endif %}",
        "<|im_end|>",
        ("<|im_start|>", "<|endoftext|>", "<think>", "</think>"),
    ),
    "llama3": Template(
        "{{- bos_token }}" + _headed("<|start_header_id|>", "<|eot_id|>", "<|end_header_id|>\n\n", ""),
        "<|eot_id|>",
        (*_HEADERS, "<|end_of_text|>"),
    ),
    "llama2": Template(_INST, "</s>", ()),
    "mistral": Template(_INST, "</s>", ("[INST]", "[/INST]")),
    "gemma": Template(
        "{{- bos_token }}" + _headed("<start_of_turn>", "<end_of_turn>", assistant="model"),
        "<end_of_turn>",
        ("<start_of_turn>",),
    ),
    "phi3": Template(
        "{%- for m in messages %}{{- '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- else %}{{- eos_token }}{%- endif %}",
        "<|end|>",
        _ROLES,
    ),
    "phi4": Template(
        "{%- for m in messages %}{{- '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- else %}{{- eos_token }}{%- endif %}",
        "<|end|>",
        _ROLES,
    ),
    "granite": Template(
        _headed("<|start_of_role|>", "<|end_of_text|>", "<|end_of_role|>"),
        "<|end_of_text|>",
        ("<|start_of_role|>", "<|end_of_role|>"),
    ),
    "tulu": Template(
        "{%- for m in messages %}"
        "{%- if m['role'] == 'assistant' %}"
        "{{- '<|assistant|>\n' + m['content'] + eos_token + ('' if loop.last else '\n') }}"
        "{%- else %}{{- '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}",
        None,
    ),
    "deepseek": Template(_DEEPSEEK, "<｜end▁of▁sentence｜>", ("<｜User｜>", "<｜Assistant｜>")),
    "cohere": Template(
        "{{- bos_token }}"
        "{%- for m in messages %}"
        "{{- '<|START_OF_TURN_TOKEN|>' + ('<|CHATBOT_TOKEN|>' if m['role'] == 'assistant' else '<|USER_TOKEN|>') "
        "+ m['content'] + '<|END_OF_TURN_TOKEN|>' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif %}",
        "<|END_OF_TURN_TOKEN|>",
        ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    ),
    "harmony": Template(
        "{%- for m in messages %}"
        "{%- if m['role'] == 'assistant' %}"
        "{{- '<|start|>assistant<|channel|>final<|message|>' + m['content'] "
        "+ ('<|return|>' if loop.last else '<|end|>') }}"
        "{%- else %}{{- '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start|>assistant<|channel|>final<|message|>' }}{%- endif %}",
        "<|return|>",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|endoftext|>"),
    ),
    "plain": Template(
        "{%- for m in messages %}"
        "{%- if m['role'] == 'assistant' %}{{- '### Response:\n' + m['content'] + eos_token + '\n\n' }}"
        "{%- else %}{{- '### Instruction:\n' + m['content'] + '\n\n' }}{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '### Response:\n' }}{%- endif %}",
        None,
    ),
}
