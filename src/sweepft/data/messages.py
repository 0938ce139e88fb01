"""Messages of a conversation to turns: roles, text, what is learned, and the keys that a template may read.

Every key of a message is used, refused with a remedy, or counted as not used. Both spellings of a message are read,
``{role, content}`` and ShareGPT's ``{from, value}``, and each of the forms in which calls of tools are written.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from sweepft.bounded_json import read_json
from sweepft.data.reading import Reading, RowFault
from sweepft.data.rows import REASONING, Turn

_MESSAGE: Final = "a message must be an object with `role` and `content`"
_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot", "ai"), "assistant"),
}
_ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool"))
_PLAIN: Final = frozenset(("role", "content"))
_WEIGHTS: Final = ("weight", "loss_weight")
_FLAGS: Final = ("train", "training", "loss")
_LARGEST_WEIGHT: Final = 1000.0
_WITHOUT_TEXT: Final = ("tool_calls", *REASONING)  # a message with one of these needs no content
_USED: Final = frozenset(("name", "tool_call_id", "function_call", *_WEIGHTS, *_FLAGS, *_WITHOUT_TEXT))
_TOOL_REMEDY: Final = (
    "write calls as `tool_calls` of the assistant's message, results as messages of role `tool`, and the functions "
    "as a column `tools`"
)
_MASK: Final = (
    "flags of this name mean the opposite in different tools",
    "write weight: 0 on the assistant turns that are not to be learned",
)
_PARTLY: Final = ("parts of a turn cannot be left out of the loss", "split the turn, or remove the key")
_MEDIA: Final = ("only text is trained on", "leave these rows out")
_REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("tools", "functions"), ("tools belong to the row, not to a message", _TOOL_REMEDY)),
    **dict.fromkeys(("mask", "masked", "loss_mask"), _MASK),
    **dict.fromkeys(("train_detail", "training_detail"), _PARTLY),
    **dict.fromkeys(("image", "images", "image_url", "audio", "video", "videos"), _MEDIA),
    "refusal": ("a refusal is text beside `content`", "write it into `content`"),
}
_CALL_ROLES: Final = ("function_call", "tool_call")
_RESULT_ROLES: Final = ("function", "observation", "function_response", "tool_response")
_TEXT_PARTS: Final = ("text", "input_text", "output_text")


def read_turns(messages: Any, column: str, reading: Reading, *, learn: bool = True) -> tuple[Turn, ...]:
    """A list of messages as turns.

    Args:
        messages: The value of the column: a list, JSON of one, or an object of equally long lists.
        column: Its name, for errors.
        reading: Names of roles and keys; counts of unused keys and renamed roles, changed in place.
        learn: Whether assistant turns are targets unless a flag says otherwise; with False none is.
    Raises:
        RowFault: If it is not a list of messages, or a key cannot be honoured.
    """
    messages = _listed(messages)
    if not isinstance(messages, list):
        raise RowFault(column, "must be a list of messages", messages)
    unused: set[str] = set()
    nulls: set[str] = set()
    turns = tuple(_turn(m, f"{column}.{i}", reading, unused, nulls, learn) for i, m in enumerate(messages))
    reading.unused.update(f"{column}[].{name}" for name in unused)
    reading.nulls.update(nulls)
    return turns


def _listed(messages: Any) -> Any:
    """Messages as a list, from the forms in which tables hold them."""
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        try:
            return read_json(messages)
        except ValueError:
            try:  # as pandas writes lists to CSV
                return ast.literal_eval(messages)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                return messages
    if isinstance(messages, Mapping) and {"role", "from"} & messages.keys():
        lists = list(messages.values())
        if all(isinstance(value, list) and len(value) == len(lists[0]) for value in lists):
            return [dict(zip(messages, values, strict=True)) for values in zip(*lists, strict=True)]
    return messages


def _turn(message: Any, key: str, reading: Reading, unused: set[str], nulls: set[str], learn: bool) -> Turn:
    if not isinstance(message, Mapping):
        raise RowFault(key, _MESSAGE, message)
    options = reading.options
    if message.keys() == _PLAIN and not options.roles:  # the usual message, without looking for anything else
        role, content = message["role"], message["content"]
        if isinstance(role, str) and role in _ROLES and isinstance(content, str):
            return Turn(
                role, text_of(content, f"{key}.content"), None if learn or role != "assistant" else False
            )
    given = {name: value for name, value in message.items() if value is not None}
    for standard in ("role", "content"):
        if (name := options.columns.get(standard)) in given and name != standard:
            given[standard] = given.pop(name)
    refuse_keys(given, _REFUSED, f"{key}.")
    role = _role(given, key, reading)
    name = "content" if "content" in given else "value"
    if role in _CALL_ROLES:
        role = "assistant"
        given = {**given, name: "", "tool_calls": _calls_in(given.get(name), f"{key}.{name}")}
    if isinstance(given.get(name), list):
        given = _with_reasoning(given, name, key)
    extra = _extra(given, key, nulls)
    if name in given:
        content = text_of(given[name], f"{key}.{name}")
    elif any(part in extra for part in _WITHOUT_TEXT):
        content = ""
    else:
        name = "content" if "role" in given else "value"
        rule = "must be text; only a message with `tool_calls` may be without"
        raise RowFault(f"{key}.{name}", rule, remedy="write the text, or leave these rows out")
    unused.update(given.keys() - _USED - {"role" if "role" in given else "from", name})
    flag, weight = _learn(given, role, key, options.train_on)
    return Turn(role, content, flag if learn or role != "assistant" else False, extra, weight)


def _role(given: Mapping[str, Any], key: str, reading: Reading) -> str:
    name = "role" if "role" in given else "from"
    if name not in given:
        raise RowFault(key, _MESSAGE, dict(given))
    written = given[name]
    if not isinstance(written, str) or not written.strip():
        raise RowFault(f"{key}.{name}", "a role must be text", written, "use system, user or assistant")
    text_of(written, f"{key}.{name}")
    role, named = written.strip().lower(), reading.options.roles
    if role in named or written in named:
        role = named.get(written, named.get(role, role))
    elif role in _CALL_ROLES:
        return role
    else:
        known = {**_NAMES, **dict.fromkeys(_RESULT_ROLES, "tool")}
        role = known.get(role, role if role in _ROLES else written)
    if role != written and name == "role":  # ShareGPT's names under `from` are as they should be
        reading.roles[written, role] += 1
    return role


def _calls_in(value: Any, key: str) -> list[Any]:
    """The calls in the text of a message whose role says that it is one: JSON of an object or a list."""
    calls = json_in(value)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, Mapping) and "name" in call for call in calls):
        raise RowFault(key, 'a tool call must be JSON: {"name": ..., "arguments": ...}', value, _TOOL_REMEDY)
    return calls


def _with_reasoning(given: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
    """A message whose content has parts of reasoning, with those beside the content."""
    parts = given[name]
    thoughts = [part for part in parts if _kind(part) in ("thinking", "reasoning")]
    if not thoughts:
        return dict(given)
    texts = [part.get("thinking") or part.get("reasoning") or part.get("text") for part in thoughts]
    if any(key in given for key in REASONING) or not all(isinstance(text, str) for text in texts):
        raise RowFault(f"{key}.{name}", "reasoning must be text, in one place", remedy="keep one of them")
    if _kind(parts[0]) != _kind(thoughts[0]) or parts[: len(thoughts)] != thoughts:
        rule = "reasoning must stand before the text"
        raise RowFault(f"{key}.{name}", rule, remedy="write it as `reasoning_content`")
    return {**given, name: parts[len(thoughts) :], "reasoning_content": "\n".join(map(str, texts))}


def _learn(
    given: Mapping[str, Any], role: str, key: str, train_on: str | tuple[str, ...]
) -> tuple[bool | None, float]:
    """Whether the flags of a message say that it is learned (None without a flag), and its weight."""
    learnable = ("assistant",) if isinstance(train_on, str) else train_on
    flags = {name: given[name] for name in (*_WEIGHTS, *_FLAGS) if name in given}
    for name, value in flags.items():
        if name in _FLAGS and (not isinstance(value, bool | int | float) or value not in (0, 1)):
            remedy = "write true or false, or `weight` for a part of the loss"
            raise RowFault(f"{key}.{name}", "must be 0 or 1, or false or true", value, remedy)
        if not isinstance(value, bool | int | float) or not 0 <= value <= _LARGEST_WEIGHT:
            rule, remedy = f"must be a number from 0 to {_LARGEST_WEIGHT:g}", "for example 0.5"
            raise RowFault(f"{key}.{name}", rule, value, remedy)
        if value and role not in learnable:
            remedy = f"remove `{name}` from messages of other roles, or list the role in train_on"
            raise RowFault(f"{key}.{name}", f"only {' and '.join(learnable)} turns are learned", role, remedy)
    weights = {float(flags[name]) for name in _WEIGHTS if name in flags}
    if len({bool(value) for value in flags.values()}) > 1 or len(weights) > 1:
        raise RowFault(key, f"{' and '.join(flags)} disagree", flags, "keep one of them")
    return all(flags.values()) if flags else None, max(weights, default=1.0) or 1.0


def _extra(given: Mapping[str, Any], key: str, nulls: set[str]) -> Mapping[str, Any]:
    extra: dict[str, Any] = {}
    for name in ("name", "tool_call_id"):
        if name in given:
            extra[name] = text_of(given[name], f"{key}.{name}")
    thoughts = {name: text_of(given[name], f"{key}.{name}") for name in REASONING if given.get(name)}
    if len(set(thoughts.values())) > 1:
        raise RowFault(key, f"{' and '.join(thoughts)} differ", remedy="keep one of them")
    extra.update(list(thoughts.items())[:1])
    calls, name = given.get("tool_calls"), "tool_calls"
    if given.get("function_call"):
        if calls:
            raise RowFault(key, "tool_calls and function_call are given", remedy="keep one of them")
        calls, name = [json_in(given["function_call"])], "function_call"
    if calls:
        extra["tool_calls"] = _tool_calls(calls, f"{key}.{name}", nulls)
        check_unicode(extra["tool_calls"], f"{key}.{name}")
    return extra


def _tool_calls(calls: Any, key: str, nulls: set[str]) -> list[Mapping[str, Any]]:
    """Tool calls with their arguments as objects, which is what chat templates write as JSON."""
    calls = _without_nulls(calls, key, nulls)
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise RowFault(key, "tool calls must be a list of objects", calls, _TOOL_REMEDY)
    read: list[Mapping[str, Any]] = []
    for call in calls:
        function = call.get("function")
        if isinstance(function, Mapping):
            arguments = _arguments(function.get("arguments"))
            read.append({**call, "function": {**function, "arguments": arguments}})
        elif isinstance(call.get("name"), str):
            function = {"name": call["name"], "arguments": _arguments(call.get("arguments"))}
            rest = {name: value for name, value in call.items() if name not in function}
            read.append({**rest, "type": "function", "function": function})
        else:
            raise RowFault(key, "a tool call must name its function", dict(call), _TOOL_REMEDY)
    return read


def _arguments(value: Any) -> Any:
    """Arguments as an object; null, an empty text and none at all are the same: a call without arguments."""
    loaded = json_in(value)
    return {} if loaded is None or (isinstance(loaded, str) and not loaded.strip()) else loaded


def read_tools(value: Any, reading: Reading) -> tuple[Mapping[str, Any], ...]:
    """The functions of a row: a list of objects, or JSON of one. Bare functions are put into the form of tools.

    Args:
        value: The value of the column.
        reading: Counts of rows with keys that are null; changed in place.
    Raises:
        RowFault: If it is something else.
    """
    nulls: set[str] = set()
    tools = _without_nulls(value, "tools", nulls)
    tools = [json_in(tool) for tool in tools] if isinstance(tools, list) else tools
    reading.nulls.update(nulls)
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RowFault("tools", "must be a list of JSON schemas of functions", value, _TOOL_REMEDY)
    check_unicode(tools, "tools")
    bare = [isinstance(tool.get("name"), str) and "parameters" in tool for tool in tools]
    return tuple(
        {"type": "function", "function": tool} if alone else tool
        for tool, alone in zip(tools, bare, strict=True)
    )


def check_unicode(value: Any, key: str) -> None:
    """Refuse names and texts inside tools and calls that are no valid Unicode."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        rule = f"must be valid Unicode: {error.reason}"
        raise RowFault(key, rule, remedy="replace the broken character") from None


def _without_nulls(value: Any, key: str, nulls: set[str]) -> Any:
    """JSON in a text as its value; in everything else keys that are null are left out, and `key` noted.

    A table gives every row the keys of all rows, null where a row has none, and keeps doing so as JSON Lines. Null in a
    text is as written.
    """
    if isinstance(value, str):
        return json_in(value)
    plain = without_nulls(value)
    if plain != value:
        nulls.add(re.sub(r"\.\d+", "[]", key))
    return plain


def without_nulls(value: Any) -> Any:
    """A value without the keys of objects that are null, at any depth."""
    if isinstance(value, Mapping):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def json_in(value: Any) -> Any:
    """JSON in a text as its value; everything else as it is."""
    if isinstance(value, str):
        try:
            return read_json(value)
        except ValueError:
            return value
    return value


def refuse_keys(given: Mapping[str, Any], refused: Mapping[str, tuple[str, str]], prefix: str = "") -> None:
    """Refuse a row or message with a key that means something and cannot be honoured."""
    for name in given:
        if name in refused and given[name] not in ("", [], {}):
            rule, remedy = refused[name]
            raise RowFault(f"{prefix}{name}", rule, remedy=remedy)


def text_of(value: Any, key: str) -> str:
    """A text, or the joined text parts of a list such as ``[{"type": "text", "text": ...}]``.

    Raises:
        RowFault: If it is something else, or not valid Unicode.
    """
    if isinstance(value, list):
        value = "".join(_part(part, f"{key}.{i}") for i, part in enumerate(value))
    if isinstance(value, bytes):
        raise RowFault(key, "must be text, and is bytes", value, "cast the column to text (in UTF-8)")
    if not isinstance(value, str):
        raise RowFault(key, "must be text", value, "write the text in quotes; only text can be trained on")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        remedy = "replace the broken character"
        raise RowFault(key, f"must be valid Unicode: {error.reason}", remedy=remedy) from None
    return value


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else None


def _part(part: Any, key: str) -> str:
    kind = _kind(part)
    if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in ("thinking", "reasoning"):
        raise RowFault(key, "reasoning must stand beside `content`", kind, "write it as `reasoning_content`")
    if kind in ("tool_use", "tool_result", "tool_call"):
        raise RowFault(key, "this is another form of tool calls", kind, _TOOL_REMEDY)
    raise RowFault(key, "must be text: only text is trained on", kind or part, "leave these rows out")
