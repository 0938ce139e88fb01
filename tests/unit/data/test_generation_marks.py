"""Chat templates without generation marks: any Jinja parses them, and they render the same text."""

from __future__ import annotations

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from sweepft.data.generation_marks import without_marks
from sweepft.data.template_choice import BUILT_IN

CHAT = [
    {"role": "system", "content": " s "},
    {"role": "user", "content": "one\n"},
    {"role": "assistant", "content": "  two "},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four\n\n"},
]
LINES = """\
{% for m in messages %}
  {% if m['role'] == 'assistant' %}
A:
    {LEFT} generation {RIGHT}
  {{ m['content'] }}<end>
    {LEFT} endgeneration {RIGHT}

after
  {% else %}
Q: {{ m['content'] }}
  {% endif %}
{% endfor %}"""
SETS_INSIDE = """\
{%- set sep = '|' %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- generation %}{% set sep = '!' %}{{ m.content + sep }}{%- endgeneration -%}
{%- endif %}
{{ sep }}
{%- endfor %}"""
NAMESPACE = "{% set n = namespace(i=0) %}{% for m in messages %}{%generation%}{% set n.i = n.i + 1 %}{{ n.i }}{%endgeneration%}{{ n.i }}{% endfor %}"


def render(template: str, prompt: bool) -> str:
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    texts, _ = render_jinja_template(
        conversations=[CHAT], chat_template=template, add_generation_prompt=prompt, **variables
    )
    return str(texts[0])


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize(
    "template",
    [
        *BUILT_IN.values(),
        *(
            LINES.replace("{LEFT}", "{%" + left).replace("{RIGHT}", right + "%}")
            for left in ("", "-", "+")
            for right in ("", "-", "+")
        ),
        SETS_INSIDE,
        NAMESPACE,
    ],
)
def test_without_marks__renders_the_same(template: str, prompt: bool) -> None:
    bare = without_marks(template)
    assert render(bare, prompt) == render(template, prompt)
    jinja2.Environment().parse(bare)
    assert "generation %" not in bare
    with pytest.raises(jinja2.TemplateSyntaxError):
        jinja2.Environment().parse(template)


def test_without_marks__other_templates_stay_as_they_are() -> None:
    template = "{% if add_generation_prompt %}{{ 'generation' }}{% endif %}"
    assert without_marks(template) == template
