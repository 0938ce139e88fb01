"""Chat templates written for tests: each gives the format of a well-known model family, none is a copy of its template.

`FAMILIES` holds them with their tokens and, written by hand, what a model must learn of each answer. The odd templates
below belong to no family; they do to contents what some templates in the wild do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sweepft.data.rows import Turn

_PROMPT: Final = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"

CHATML = (
    """\
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
"""
    + _PROMPT
)

QWEN2_5 = (
    """\
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}
{%- else %}{%- set system = 'You are a helpful test model.' %}{%- endif %}
{{- '<|im_start|>system\n' + system }}
{%- if tools %}
{{- '\n\n# Tools\n\n<tools>' }}
{%- for tool in tools %}{{- '\n' + tool | tojson }}{%- endfor %}
{{- '\n</tools>' }}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) or (m.role == 'assistant' and not m.tool_calls) %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- elif m.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if m.content %}{{- '\n' + m.content }}{%- endif %}
{%- for call in m.tool_calls %}
{%- set f = call.function if call.function is defined else call %}
{{- '\n<tool_call>\n{"name": "' + f.name + '", "arguments": ' + (f.arguments | tojson) + '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
{%- endif %}
{%- endfor %}
"""
    + _PROMPT
)

QWEN3 = (
    """\
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}
{%- if m.role == 'user' and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}
{%- set ns.last = loop.index0 %}
{%- endif %}
{%- endfor %}
{%- if tools %}
{{- '<|im_start|>system\n' + (messages[0].content + '\n\n' if messages[0].role == 'system' else '') }}
{{- '# Tools\n\n<tools>' }}
{%- for tool in tools %}{{- '\n' + tool | tojson }}{%- endfor %}
{{- '\n</tools><|im_end|>\n' }}
{%- endif %}
{%- for m in messages if not (tools and m.role == 'system') %}
{%- set content = m.content if m.content is string else '' %}
{%- if m.role == 'assistant' %}
{%- set thought = '' %}
{%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}
{%- elif '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
{%- else %}
{{- content }}
{%- endif %}
{%- for call in m.tool_calls or [] %}
{%- if not loop.first or content %}{{- '\n' }}{%- endif %}
{%- set f = call.function or call %}
{{- '<tool_call>\n{"name": "' + f.name + '", "arguments": ' }}
{%- if f.arguments is string %}{{- f.arguments }}{%- else %}{{- f.arguments | tojson }}{%- endif %}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + content + '\n</tool_response><|im_end|>\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
"""
    + _PROMPT
)

PHI3 = """\
{%- for m in messages %}
{%- if m['role'] in ['system', 'user', 'assistant'] %}
{{- '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- else %}{{- eos_token }}{%- endif %}"""

PHI4_MINI = """\
{%- for m in messages %}
{%- if m['role'] == 'system' and tools %}
{{- '<|system|>' + m['content'] + '<|tool|>' + tools | tojson + '<|/tool|><|end|>' }}
{%- else %}
{{- '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- else %}{{- eos_token }}{%- endif %}"""

MISTRAL = """\
{%- set talk = messages[1:] if messages[0].role == 'system' else messages %}
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- set ns = namespace(i=0) %}
{%- for m in talk %}
{%- if m.role in ['user', 'assistant'] and not m.tool_calls %}
{%- if (m.role == 'user') != (ns.i % 2 == 0) %}
{{- raise_exception('After the optional system message, roles must alternate user and assistant') }}
{%- endif %}
{%- set ns.i = ns.i + 1 %}
{%- endif %}
{%- endfor %}
{%- set users = talk | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for m in talk %}
{%- if m.role == 'user' %}
{%- if tools and m == users[-1] %}{{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{%- if loop.last and system is not none %}{{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}
{%- elif m == users[-1] and system is not none %}{{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}
{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}
{%- elif m.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in m.tool_calls %}
{{- (call.function | tojson)[:-1] }}
{%- if call.id is not defined or call.id | length != 9 %}
{{- raise_exception('Tool call ids must be strings of 9 characters') }}
{%- endif %}
{{- ', "id": "' + call.id + '"}' }}
{%- if not loop.last %}{{- ', ' }}{%- endif %}
{%- endfor %}
{{- ']' + eos_token }}
{%- elif m.role == 'assistant' %}{{- ' ' + m.content + eos_token }}
{%- elif m.role == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- else %}{{- raise_exception('Only user, assistant and tool roles are supported') }}
{%- endif %}
{%- endfor %}"""

LLAMA2 = """\
{%- if messages[0]['role'] == 'system' %}
{%- set talk = messages[1:] %}{%- set system = messages[0]['content'] %}
{%- else %}{%- set talk = messages %}{%- set system = false %}{%- endif %}
{%- for m in talk %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant') }}
{%- endif %}
{%- if loop.index0 == 0 and system != false %}
{%- set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}
{%- else %}{%- set content = m['content'] %}{%- endif %}
{%- if m['role'] == 'user' %}{{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- elif m['role'] == 'assistant' %}{{- ' ' + content.strip() + ' ' + eos_token }}{%- endif %}
{%- endfor %}"""

LLAMA3 = """\
{{- bos_token }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

LLAMA3_1 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' }}
{%- if tools %}
{%- set first = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{{- '<|start_header_id|>user<|end_header_id|>\n\nFunctions:\n\n' }}
{%- for t in tools %}{{- t | tojson(indent=4) + '\n\n' }}{%- endfor %}
{{- first + '<|eot_id|>' }}
{%- endif %}
{%- for m in messages %}
{%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}
{%- elif 'tool_calls' in m %}
{%- if m.tool_calls | length != 1 %}{{- raise_exception('Only single tool calls are supported') }}{%- endif %}
{%- set f = m.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{{- '{"name": "' + f.name + '", "parameters": ' + f.arguments | tojson + '}<|eom_id|>' }}
{%- else %}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
{%- if m.content is mapping %}{{- m.content | tojson }}{%- else %}{{- m.content }}{%- endif %}
{{- '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

GEMMA2 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant') }}
{%- endif %}
{%- set role = 'model' if m['role'] == 'assistant' else m['role'] %}
{{- '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"""

GEMMA3 = """\
{{- bos_token }}
{%- set first = '' %}{%- set talk = messages %}
{%- if messages[0]['role'] == 'system' %}
{%- set first = messages[0]['content'] + '\n\n' %}{%- set talk = messages[1:] %}
{%- endif %}
{%- for m in talk %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + (first if loop.first else '') }}
{%- if m['content'] is string %}{{- m['content'] | trim }}
{%- else %}{%- for item in m['content'] %}{{- item['text'] | trim }}{%- endfor %}{%- endif %}
{{- '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"""

GRANITE = """\
{%- if messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] %}{%- set talk = messages[1:] %}
{%- else %}
{%- set system = 'Knowledge Cutoff Date: April 2024. You are a test model.' %}{%- set talk = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\n' }}
{%- if tools %}{{- '<|start_of_role|>tools<|end_of_role|>' + tools | tojson + '<|end_of_text|>\n' }}{%- endif %}
{%- for m in talk %}
{%- if m['role'] == 'tool' %}
{{- '<|start_of_role|>tool_response<|end_of_role|>' + m['content'] + '<|end_of_text|>\n' }}
{%- else %}
{{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\n' }}
{%- endif %}
{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}
{%- endfor %}"""

OLMO2 = """\
{{- bos_token }}
{%- for m in messages %}
{%- if m['role'] == 'system' %}{{- '<|system|>\n' + m['content'] + '\n' }}
{%- elif m['role'] == 'user' %}{{- '<|user|>\n' + m['content'] + '\n' }}
{%- elif m['role'] == 'assistant' %}
{{- '<|assistant|>\n' + m['content'] + eos_token + ('' if loop.last else '\n') }}
{%- endif %}
{%- if loop.last and add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}
{%- endfor %}"""

SMOLLM3 = """\
{%- set ns = namespace(system='', think=true) %}
{%- if messages[0].role == 'system' %}
{%- if '/no_think' in messages[0].content %}{%- set ns.think = false %}{%- endif %}
{%- set ns.system = messages[0].content.replace('/no_think', '').replace('/think', '').rstrip() %}
{%- endif %}
{{- '<|im_start|>system\n## Metadata\n\nReasoning Mode: ' + ('/think' if ns.think else '/no_think') + '\n\n' }}
{{- '## Custom Instructions\n\n' + (ns.system or 'You are a test model.') + '\n\n<|im_end|>\n' }}
{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- elif m.role == 'assistant' %}
{%- if ns.think %}
{{- '<|im_start|>assistant\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}
{%- else %}
{{- '<|im_start|>assistant\n<think>\n\n</think>\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}
{%- endif %}
{%- elif m.role == 'tool' %}{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{%- if ns.think %}{{- '<|im_start|>assistant\n' }}
{%- else %}{{- '<|im_start|>assistant\n<think>\n\n</think>\n' }}{%- endif %}
{%- endif %}"""

R1 = """\
{%- set ns = namespace(system='') %}
{%- for m in messages %}{%- if m['role'] == 'system' %}{%- set ns.system = m['content'] %}{%- endif %}{%- endfor %}
{{- bos_token + ns.system }}
{%- for m in messages %}
{%- if m['role'] == 'user' %}{{- '<|User|>' + m['content'] }}{%- endif %}
{%- if m['role'] == 'assistant' and m['tool_calls'] %}
{{- '<|Assistant|><|tool_calls_begin|>' }}
{%- for call in m['tool_calls'] %}
{{- '<|tool_call_begin|>' + call['function']['name'] + '\n' + (call['function']['arguments'] | tojson) }}
{{- '<|tool_call_end|>' }}
{%- endfor %}
{{- '<|tool_calls_end|>' + eos_token }}
{%- elif m['role'] == 'assistant' %}
{%- set content = m['content'] %}
{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}
{{- '<|Assistant|>' + content + eos_token }}
{%- endif %}
{%- if m['role'] == 'tool' %}
{{- '<|tool_output_begin|>' + m['content'] + '<|tool_output_end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\n' }}{%- endif %}"""

ZEPHYR = """\
{%- for m in messages %}
{%- if m['role'] == 'user' %}{{- '<|user|>\n' + m['content'] + eos_token }}
{%- elif m['role'] == 'system' %}{{- '<|system|>\n' + m['content'] + eos_token }}
{%- elif m['role'] == 'assistant' %}{{- '<|assistant|>\n' + m['content'] + eos_token }}{%- endif %}
{{- '\n' }}
{%- if loop.last and add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}
{%- endfor %}"""

VICUNA = """\
{{- 'A chat between a curious user and a test model. ' }}
{%- for m in messages %}
{%- if m['role'] == 'user' %}{{- 'USER: ' + m['content'].strip() }}
{%- elif m['role'] == 'assistant' %}{{- ' ASSISTANT: ' + m['content'].strip() + eos_token }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- ' ASSISTANT:' }}{%- endif %}"""

CHATGLM4 = """\
{{- '[gMASK]<sop>' }}
{%- for m in messages %}
{%- if m['role'] == 'tool' %}{{- '<|observation|>\n' + m['content'] }}
{%- else %}{{- '<|' + m['role'] + '|>\n' + m['content'] }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""

COMMAND_R = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set talk = messages[1:] %}
{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + messages[0]['content'] + '<|END_OF_TURN_TOKEN|>' }}
{%- else %}{%- set talk = messages %}{%- endif %}
{%- for m in talk %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant') }}
{%- endif %}
{%- set role = '<|USER_TOKEN|>' if m['role'] == 'user' else '<|CHATBOT_TOKEN|>' %}
{{- '<|START_OF_TURN_TOKEN|>' + role + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif %}"""

# What follows belongs to no family.

LAST_EOS = """\
{%- for m in messages %}{{- m.role + ': ' + m.content + '\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- else %}{{- eos_token }}{%- endif %}"""
NO_END = """\
{%- for m in messages %}{{- m['role'] + ': ' + m['content'] + '\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"""
NUMBERED = """\
{%- for m in messages %}
{%- if loop.first %}{{- 'START ' }}{%- endif %}
{{- '<|im_start|>' + loop.index | string + '/' + loop.length | string + ' ' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- if loop.last %}{{- 'STOP' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>' + (messages | length + 1) | string + ' assistant\n' }}{%- endif %}"""
UPPER = CHATML.replace("m['content']", "m['content'] | upper")
ESCAPES = CHATML.replace("+ m['content'] + '<|im_end|>'", "}}{{- m['content'] | escape }}{{- '<|im_end|>'")
JSON = CHATML.replace("m['content']", "m['content'] | tojson")
INDENTS = CHATML.replace("m['content']", "m['content'] | indent(2, true)")
TWICE = CHATML.replace("m['content']", "m['content'] + ' ' + m['content']")
CUTS = CHATML.replace(
    "m['content']", "(m['content'] if loop.last or m['role'] == 'user' else m['content'][:2])"
)
CLOSED = CHATML.replace("m['content'] +", "m['content'] + ' (over)' +")
SHOUTS_JSON = CHATML.replace(
    "m['content'] +", "(m['content'] + ' as JSON' if 'json' in m['content'] else m['content']) +"
)
ONLY_LAST = CHATML.replace("in messages %}", "in messages[-2:] %}")
LAST_ANSWER = CHATML.replace(
    "in messages %}",
    "in messages %}{%- if m.role == 'user' or loop.last or loop.index == 2 and loop.length == 3 %}",
).replace("{%- endfor %}", "{%- endif %}{%- endfor %}")
ENDS_BEFORE_USER = """\
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' + m.content }}
{%- if m.role != 'assistant' or loop.last or messages[loop.index0 + 1].role == 'user' %}{{- '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
MERGES = """\
{%- for m in messages %}
{%- if m.role == 'assistant' and not loop.first and messages[loop.index0 - 1].role == 'assistant' %}{{- '\n' }}
{%- else %}{{- '<|im_start|>' + m.role + '\n' }}{%- endif %}
{{- m.content }}
{%- if loop.last or m.role != 'assistant' or messages[loop.index0 + 1].role != 'assistant' %}{{- '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
THINKS = CHATML.replace(
    "<|im_start|>assistant\n' }}{%- endif", "<|im_start|>assistant\n<think>\n' }}{%- endif"
)
MARKED_SHORT = """\
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\n' }}
{%- if m['role'] == 'assistant' %}{%- generation %}{{- m['content'] }}{%- endgeneration %}
{%- else %}{{- m['content'] }}{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}"""
MARKED_DROPS_SYSTEM = MARKED_SHORT.replace(
    "{%- for m in messages %}", "{%- for m in messages if m.role != 'system' %}"
)
HARMONY = """\
{%- for m in messages %}
{%- if m.role == 'assistant' and m.tool_calls %}
{%- set f = m.tool_calls[0].function %}
{{- '<|start|>assistant to=functions.' + f.name + '<|channel|>commentary json<|message|>' }}
{{- f.arguments | tojson + '<|call|>' }}
{%- elif m.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}
{%- elif m.role == 'tool' %}
{{- '<|start|>functions to=assistant<|channel|>commentary<|message|>' + m.content | tojson + '<|end|>' }}
{%- else %}
{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""
GLM4_5 = """\
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- '<|assistant|>' }}
{%- if m.content %}{{- '\n' + m.content }}{%- endif %}
{%- for call in m.tool_calls or [] %}
{{- '\n<tool_call>' + call.function.name }}
{%- for key, value in call.function.arguments.items() %}
{{- '\n<arg_key>' + key + '</arg_key>\n<arg_value>' }}
{{- value if value is string else value | tojson }}
{{- '</arg_value>' }}
{%- endfor %}
{{- '\n</tool_call>' }}
{%- endfor %}
{%- else %}
{{- '<|observation|>' if m.role == 'tool' else '<|' + m.role + '|>' }}{{- '\n' + m.content }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""

Answer = Callable[[Turn, bool], str]


@dataclass(frozen=True)
class Family:
    """A template with its tokens.

    Attributes:
        template: The Jinja text.
        answer: From an assistant turn, and whether no user turn follows it, to the text to learn, end included.
        eos: The tokenizer's eos token.
        bos: The tokenizer's bos token.
        end: The token that ends a turn.
        later_system: Outcome of a row with a system turn behind the first turn.
        system: Outcome of a row that begins with a system turn.
        tool: Outcome of a row with a tool call and a tool's answer.
    """

    template: str
    answer: Answer
    eos: str
    end: str | None
    bos: str | None = None
    system: str = "kept"
    later_system: str = "kept"
    tool: str = "kept"


def said(end: str, strip: bool = False, lead: str = "") -> Answer:
    """The content as written, or stripped, between `lead` and `end`."""
    return lambda turn, _: lead + (turn.content.strip() if strip else turn.content) + end


def _qwen3(turn: Turn, final: bool) -> str:
    thought = str(turn.extra.get("reasoning_content", ""))
    content = turn.content
    if not thought and "</think>" in content:
        thought, content = (
            content.split("<think>\n")[1].split("\n</think>")[0],
            content.split("</think>\n\n")[1],
        )
    return (
        (f"<think>\n{thought}\n</think>\n\n" if final else "")
        + content.lstrip("\n" if final else "")
        + "<|im_end|>"
    )


def _r1(turn: Turn, _: bool) -> str:
    return turn.content.split("</think>")[-1] + "<|end_of_sentence|>"


FAMILIES: Final[dict[str, Family]] = {
    "chatml": Family(CHATML, said("<|im_end|>"), "<|im_end|>", "<|im_end|>", tool="not_rendered"),
    "qwen2.5": Family(QWEN2_5, said("<|im_end|>"), "<|im_end|>", "<|im_end|>"),
    "qwen2.5-base": Family(QWEN2_5, said("<|im_end|>"), "<|endoftext|>", "<|im_end|>"),
    "qwen3": Family(QWEN3, _qwen3, "<|im_end|>", "<|im_end|>"),
    "phi-3": Family(PHI3, said("<|end|>"), "<|endoftext|>", "<|end|>", tool="not_rendered"),
    "phi-4-mini": Family(PHI4_MINI, said("<|end|>"), "<|endoftext|>", "<|end|>", tool="not_rendered"),
    "mistral": Family(MISTRAL, said("</s>", lead=" "), "</s>", "</s>", "<s>", later_system="refused"),
    "llama-2": Family(
        LLAMA2, said(" </s>", True, " "), "</s>", "</s>", "<s>", later_system="refused", tool="refused"
    ),
    "llama-3": Family(
        LLAMA3, said("<|eot_id|>", True), "<|end_of_text|>", "<|eot_id|>", "<s>", tool="not_rendered"
    ),
    "llama-3.1": Family(LLAMA3_1, said("<|eot_id|>", True), "<|end_of_text|>", "<|eot_id|>", "<s>"),
    "gemma-2": Family(
        GEMMA2,
        said("<end_of_turn>", True),
        "<eos>",
        "<end_of_turn>",
        "<bos>",
        system="refused",
        later_system="refused",
        tool="refused",
    ),
    "gemma-3": Family(
        GEMMA3,
        said("<end_of_turn>", True),
        "<eos>",
        "<end_of_turn>",
        "<bos>",
        later_system="refused",
        tool="refused",
    ),
    "granite": Family(
        GRANITE, said("<|end_of_text|>"), "<|end_of_text|>", "<|end_of_text|>", tool="not_rendered"
    ),
    "olmo-2": Family(
        OLMO2, said("<|endoftext|>"), "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", tool="not_rendered"
    ),
    "smollm3": Family(
        SMOLLM3,
        lambda turn, _: turn.content.lstrip("\n") + "<|im_end|>",
        "<|im_end|>",
        "<|im_end|>",
        tool="not_rendered",
    ),
    "r1-distill": Family(R1, _r1, "<|end_of_sentence|>", "<|end_of_sentence|>", "<s>", tool="not_rendered"),
    "zephyr": Family(ZEPHYR, said("</s>"), "</s>", "</s>", "<s>", tool="not_rendered"),
    "vicuna": Family(
        VICUNA,
        said("</s>", True, " "),
        "</s>",
        "</s>",
        "<s>",
        system="not_rendered",
        later_system="not_rendered",
        tool="not_rendered",
    ),
    "chatglm-4": Family(CHATGLM4, said("", lead="\n"), "<|endoftext|>", None, tool="not_rendered"),
    "command-r": Family(
        COMMAND_R,
        said("<|END_OF_TURN_TOKEN|>", True),
        "<|END_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<BOS_TOKEN>",
        later_system="refused",
        tool="refused",
    ),
}
"""Templates by family. Of a row that is kept, every learned answer's text is that of `Family.answer`."""

SPECIAL: Final = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "<|end_of_text|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|end|>",
    "<bos>",
    "<eos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|User|>",
    "<|Assistant|>",
    "<|end_of_sentence|>",
    "<|tool_calls_begin|>",
    "<|tool_calls_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_end|>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<BOS_TOKEN>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[gMASK]",
    "<sop>",
)
"""Special tokens of all the templates."""
ADDED: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Added tokens that are not special, as Qwen's tokenizers have them."""

SWITCH = """\
{%- set think = enable_thinking | default(true) %}
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\n' }}
{%- if m['role'] == 'assistant' and not think %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{{- m['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if not think %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""
"""Has a variable that switches thinking off, in answers and in the generation prompt."""
