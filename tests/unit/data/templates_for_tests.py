"""Chat templates in the styles of well-known model families, written small for tests, none with marks."""

from __future__ import annotations

CHATML = """\
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

LLAMA3 = """\
{{- bos_token }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

MISTRAL = """\
{{- bos_token }}
{%- for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate user/assistant') }}
{%- endif %}
{%- if m['role'] == 'user' %}{{- '[INST] ' + m['content'] + ' [/INST]' }}
{%- else %}{{- ' ' + m['content'] + eos_token }}{%- endif %}
{%- endfor %}"""

ZEPHYR = """\
{%- for m in messages %}
{{- '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"""

GRANITE = """\
{%- for m in messages %}
{{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"""

REWRITES = """\
{%- for m in messages %}
{%- set c = m['content'] if m['role'] == 'user' or loop.last else m['content'][:2] %}
{{- '<|im_start|>' + m['role'] + '\n' + c + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

THINKS = """\
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"""

NO_END = """\
{%- for m in messages %}{{- m['role'] + ': ' + m['content'] + '\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"""

MARKED_SHORT = """\
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\n' }}
{%- if m['role'] == 'assistant' %}{%- generation %}{{- m['content'] }}{%- endgeneration %}
{%- else %}{{- m['content'] }}{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}"""

SPECIAL = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "<|end_of_text|>",
)
