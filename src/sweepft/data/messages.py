"""Messages of a conversation to turns: roles, text, what is learned, and the keys that a template may read.

Every key of a message is used, refused with a remedy, or counted as not used. Both spellings of a message are read:
``{role, content}`` and ShareGPT's ``{from, value}``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sweepft.data.rows import REASONING, Turn

FORMS: Final = (
    "give each row `messages` ([{role, content}, ...]), `prompt` and `completion`, `instruction` and `output`, "
    "`question` and `answer`, ShareGPT's `conversations`, or `text`"
)
_MESSAGE: Final = "a message must be an object with `role` and `content`"
_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot", "ai"), "assistant"),
}
_ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool"))
_PLAIN: Final = frozenset(("role", "content"))
_FLAGS: Final = ("weight", "loss_weight", "train", "training", "loss")
_WITHOUT_TEXT: Final = ("tool_calls", *REASONING)  # a message with one of these needs no content
_USED: Final = frozenset(("name", "tool_call_id", *_FLAGS, *_WITHOUT_TEXT))
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
    "function_call": ("this is the old form of a tool call", _TOOL_REMEDY),
    **dict.fromkeys(("tools", "functions"), ("tools belong to the row, not to a message", _TOOL_REMEDY)),
    **dict.fromkeys(("mask", "masked", "loss_mask"), _MASK),
    **dict.fromkeys(("train_detail", "training_detail"), _PARTLY),
    **dict.fromkeys(("image", "images", "image_url", "audio", "video", "videos"), _MEDIA),
    "refusal": ("a refusal is text beside `content`", "write it into `content`"),
}
_TOOL_ROLES: Final = ("function", "function_call", "observation")
_TEXT_PARTS: Final = ("text", "input_text", "output_text")


class RowFault(Exception):
    """A row that cannot be used as it is.

    Attributes:
        key: The column or message that is wrong.
        rule: The rule that is broken.
        value: The value found, if showing it helps.
        remedy: What to do.
        detail: What is special about this row; rows whose key and rule are equal are reported together.
    """

    def __init__(
        self, key: str, rule: str, value: Any = None, remedy: str = FORMS, *, detail: str = ""
    ) -> None:
        super().__init__(rule)
        self.key, self.rule, self.value, self.remedy, self.detail = key, rule, value, remedy, detail

    @property
    def kind(self) -> tuple[str, str]:
        """Equal for rows with the same fault, whichever message has it."""
        return re.sub(r"\d+", "*", self.key), self.rule


@dataclass
class Found:
    """What reading a source found beside its rows.

    Attributes:
        formats: Rows by the name of their format.
        unused: Rows by column that is not used; keys of messages as ``messages[].key``.
        roles: Messages by role as written and role as read, where they differ.
        nulls: Rows by the column or key in which keys of objects were null, and were left out.
    """

    formats: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    roles: Counter[tuple[str, str]] = field(default_factory=Counter)
    nulls: Counter[str] = field(default_factory=Counter)


def read_turns(messages: Any, column: str, found: Found, *, learn: bool = True) -> tuple[Turn, ...]:
    """A list of messages as turns.

    Args:
        messages: The value of the column.
        column: Its name, for errors.
        found: Counts of unused keys and renamed roles; changed in place.
        learn: Whether assistant turns are targets unless a flag says otherwise; with False none is.
    Raises:
        RowFault: If it is not a list of messages, or a key cannot be honoured.
    """
    if not isinstance(messages, list):
        raise RowFault(column, "must be a list of messages", messages)
    unused: set[str] = set()
    nulls: set[str] = set()
    turns = tuple(_turn(m, f"{column}.{i}", found, unused, nulls, learn) for i, m in enumerate(messages))
    found.unused.update(f"{column}[].{name}" for name in unused)
    found.nulls.update(nulls)
    return turns


def _turn(message: Any, key: str, found: Found, unused: set[str], nulls: set[str], learn: bool) -> Turn:
    if not isinstance(message, Mapping):
        raise RowFault(key, _MESSAGE, message)
    if message.keys() == _PLAIN:  # the usual message, without looking for anything else
        role, content = message["role"], message["content"]
        if isinstance(role, str) and role in _ROLES and isinstance(content, str):
            return Turn(role, text_of(content, f"{key}.content"), learn or role != "assistant")
    given = {name: value for name, value in message.items() if value is not None}
    refuse_keys(given, _REFUSED, f"{key}.")
    role = _role(given, key, found)
    name = "content" if "content" in given else "value"
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
    flag = _learn(given, role, key)
    return Turn(role, content, role != "assistant" or (flag and learn), extra)


def _role(given: Mapping[str, Any], key: str, found: Found) -> str:
    name = "role" if "role" in given else "from"
    if name not in given:
        raise RowFault(key, _MESSAGE, dict(given))
    written = given[name]
    if not isinstance(written, str) or not written.strip():
        raise RowFault(f"{key}.{name}", "a role must be text", written, "use system, user or assistant")
    role = written.strip().lower()
    if role in _TOOL_ROLES:
        rule = f"role `{role}` is another form of tool calls"
        raise RowFault(f"{key}.{name}", rule, remedy=_TOOL_REMEDY)
    role = _NAMES.get(role, role if role in _ROLES else written)
    if role != written and name == "role":  # ShareGPT's names under `from` are as they should be
        found.roles[written, role] += 1
    return role


def _learn(given: Mapping[str, Any], role: str, key: str) -> bool:
    flags = {name: given[name] for name in _FLAGS if name in given}
    for name, value in flags.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            remedy = "round it, or leave the turn out; parts of a loss are not supported"
            raise RowFault(f"{key}.{name}", "must be 0 or 1, or false or true", value, remedy)
        if value and role != "assistant":
            remedy = f"remove `{name}` from messages of other roles"
            raise RowFault(f"{key}.{name}", "only assistant turns can be learned", role, remedy)
    if len({bool(value) for value in flags.values()}) > 1:
        raise RowFault(key, f"{' and '.join(flags)} disagree", flags, "keep one of them")
    return all(flags.values())


def _extra(given: Mapping[str, Any], key: str, nulls: set[str]) -> Mapping[str, Any]:
    extra: dict[str, Any] = {}
    for name in ("name", "tool_call_id"):
        if name in given:
            extra[name] = text_of(given[name], f"{key}.{name}")
    thoughts = {name: text_of(given[name], f"{key}.{name}") for name in REASONING if given.get(name)}
    if len(set(thoughts.values())) > 1:
        raise RowFault(key, f"{' and '.join(thoughts)} differ", remedy="keep one of them")
    extra.update(list(thoughts.items())[:1])
    if given.get("tool_calls"):
        extra["tool_calls"] = _tool_calls(given["tool_calls"], f"{key}.tool_calls", nulls)
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
            read.append({**call, "arguments": _arguments(call.get("arguments"))})
        else:
            raise RowFault(key, "a tool call must name its function", dict(call), _TOOL_REMEDY)
    return read


def _arguments(value: Any) -> Any:
    """Arguments as an object; null, an empty text and none at all are the same: a call without arguments."""
    loaded = _loaded(value)
    return {} if loaded is None or (isinstance(loaded, str) and not loaded.strip()) else loaded


def read_tools(value: Any, found: Found) -> tuple[Mapping[str, Any], ...]:
    """The functions of a row: a list of objects, or JSON of one.

    Args:
        value: The value of the column.
        found: Counts of rows with keys that are null; changed in place.
    Raises:
        RowFault: If it is something else.
    """
    nulls: set[str] = set()
    tools = _without_nulls(value, "tools", nulls)
    found.nulls.update(nulls)
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RowFault("tools", "must be a list of JSON schemas of functions", value, _TOOL_REMEDY)
    return tuple(tools)


def _without_nulls(value: Any, key: str, nulls: set[str]) -> Any:
    """JSON in a text as its value; in everything else keys that are null are left out, and `key` noted.

    A table gives every row the keys of all rows, null where a row has none, and keeps doing so as JSON Lines. Null in a
    text is as written.
    """
    if isinstance(value, str):
        return _loaded(value)
    plain = without_nulls(value)
    if plain != value:
        nulls.add(re.sub(r"\.\d+", "[]", key))
    return plain


def without_nulls(value: Any) -> Any:
    """A value without the keys of objects that are null, at any depth."""
    if isinstance(value, Mapping):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _loaded(value: Any) -> Any:
    """JSON in a text as its value; everything else as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
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
    if not isinstance(value, str):
        raise RowFault(key, "must be text", value, "write the text in quotes; only text can be trained on")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        remedy = "replace the broken character"
        raise RowFault(key, f"must be valid Unicode: {error.reason}", remedy=remedy) from None
    return value


def _part(part: Any, key: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in ("thinking", "reasoning"):
        raise RowFault(key, "reasoning must stand beside `content`", kind, "write it as `reasoning_content`")
    if kind in ("tool_use", "tool_result", "tool_call"):
        raise RowFault(key, "this is another form of tool calls", kind, _TOOL_REMEDY)
    raise RowFault(key, "must be text: only text is trained on", kind or part, "leave these rows out")
