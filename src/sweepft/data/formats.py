"""Formats of instruction data: which columns make a row, and which others mean something.

A format is recognised by its columns, in the order of `FORMATS`. Every other column of a row is honoured (`domain`,
`system`, `tools`), refused because it would change what is trained on, or counted as not used.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sweepft.data.messages import (
    read_turns,
    refuse_keys,
    text_of,
)
from sweepft.data.reading import FORMS, Options, Reading, RowFault
from sweepft.data.refused_columns import BY_NAME, MAP, PREFERENCE, REFUSED
from sweepft.data.row_fields import (
    SYSTEM,
    VARIABLES,
    Content,
    domain_of,
    is_given,
    is_missing,
    tools_of,
    variables_of,
    with_system,
)
from sweepft.data.rows import Row, Turn


@dataclass(frozen=True)
class Format:
    """One way to write rows.

    Attributes:
        name: As in `format` of a source.
        columns: Columns that a row must have.
        optional: Further columns that it reads.
        read: Columns to turns or a text.
    """

    name: str
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Mapping[str, Any], Reading], Content]


TITLES: Final[Mapping[str, str]] = {
    "messages": "chat (messages)",
    "sharegpt": "ShareGPT (conversations)",
    "prompt_completion": "prompt and completion",
    "alpaca": "Alpaca (instruction, input, output)",
    "question_answer": "question and answer",
    "text": "text",
}


def _conversation(name: str, column: str) -> Format:
    return Format(name, (column,), (), lambda row, reading: read_turns(row[column], column, reading))


def _pair(name: str, ask: str, answer: str, more: str | None = None) -> Format:
    """A request and its answer, each a text or a list of messages; only the answer is learned."""

    def read(row: Mapping[str, Any], reading: Reading) -> Content:
        asked, answered = row[ask], row[answer]
        if _is_messages(asked):
            before = read_turns(asked, ask, reading, learn=False)
        else:
            text = text_of(asked, ask)
            if more is not None and is_given(row.get(more)):
                text = f"{text}\n{text_of(row[more], more)}" if text else text_of(row[more], more)
            before = (*_history(row), Turn("user", text)) if name == "alpaca" else (Turn("user", text),)
        if _is_messages(answered):
            return *before, *read_turns(answered, answer, reading)
        return *before, Turn("assistant", text_of(answered, answer))

    optional = tuple(column for column in (more, "history" if name == "alpaca" else None) if column)
    return Format(name, (ask, answer), optional, read)


def _history(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Earlier rounds as ``[[request, answer], ...]``; the answers are learned, as other tools do."""
    rounds = row.get("history") or []
    turns: list[Turn] = []
    for i, pair in enumerate(rounds if isinstance(rounds, list) else [rounds]):
        if not isinstance(pair, list) or len(pair) != 2:
            rule = "must be a list of [request, answer] pairs"
            raise RowFault("history", rule, pair, "write the earlier rounds so, or as `messages`")
        turns += [
            Turn("user", text_of(pair[0], f"history.{i}.0")),
            Turn("assistant", text_of(pair[1], f"history.{i}.1")),
        ]
    return tuple(turns)


FORMATS: Final = (
    _conversation("messages", "messages"),
    _conversation("sharegpt", "conversations"),
    _pair("prompt_completion", "prompt", "completion"),
    _pair("prompt_completion", "prompt", "response"),
    _pair("alpaca", "instruction", "output", "input"),
    _pair("alpaca", "instruction", "response", "context"),
    _pair("question_answer", "question", "answer"),
    _pair("question_answer", "question", "response"),
    _pair("question_answer", "query", "response"),
    _pair("question_answer", "problem", "solution"),
    _pair("question_answer", "input", "output"),
    Format("text", ("text",), (), lambda row, _: text_of(row["text"], "text")),
)
COLUMNS: Final = frozenset(column for f in FORMATS for column in (*f.columns, *f.optional))
"""Columns that hold what is trained on, in one format or another."""
_NEEDED: Final = frozenset(column for f in FORMATS for column in f.columns)

_HONOURED: Final = frozenset(("domain", "tools", "functions", VARIABLES, *SYSTEM))


def read_row(record: Any, where: str, reading: Reading) -> Row:
    """One record in normal form.

    Args:
        record: Columns and values; None and NaN stand for a missing value.
        where: Its place, for messages.
        reading: How the source is read, and its counts, which are changed in place.
    Raises:
        RowFault: If it cannot be used as it is.
    """
    options = reading.options
    if isinstance(record, RowFault):
        raise record
    if not isinstance(record, Mapping):
        raise RowFault("row", "each row must be an object of columns", record)
    given = {name: value for name, value in record.items() if not is_missing(value)}
    wanted = options.format
    if options.columns:
        given, wanted = _renamed(given, options), wanted or mapped_format(tuple(options.columns))
    layout = _layout(tuple(given), wanted)
    if layout.refused:
        refuse_keys(given, REFUSED)
    chosen = layout.chosen
    if chosen is None:
        raise _unrecognised(given, wanted)
    for name in layout.by_name:
        _refuse_unnamed(name, given[name], chosen)
    content = chosen.read(given, reading)
    if layout.rivals:
        _refuse_second(given, chosen, layout.rivals, content)
    content = with_system(content, given, options.system)
    tools, variables = tools_of(given, content, reading), variables_of(given, content)
    if not isinstance(content, str):
        content = _with_targets(content, options.train_on)
        for what in _odd(content):
            reading.note_odd(what, where)
    reading.formats[chosen.name] += 1
    for name in layout.unused:
        if is_given(given[name]):
            reading.unused[name] += 1
    domain = options.domain if options.domain is not None else domain_of(given)
    return Row(content, domain, where, tools, variables)


def _renamed(given: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The columns under the names of the formats. A column whose name another one takes is not read."""
    named = {key: name for key, name in options.columns.items() if key not in ("role", "content")}
    renamed = {name: value for name, value in given.items() if name not in named.values()}
    for key, name in named.items():
        value = given[name] if name in given else _inside(given, name)
        if key in renamed:
            renamed[f"{key} (not mapped)"] = renamed.pop(key)
        if not is_missing(value):
            renamed[key] = value
        elif key in _NEEDED:
            there = ", ".join(sorted(map(str, given))) or "none"
            raise RowFault(name, f"columns.{key} names a column that the row lacks", there, "check the name")
    return renamed


def _inside(given: Any, name: str) -> Any:
    """The value of ``a.b`` inside the object ``a``."""
    for part in name.split("."):
        given = given.get(part) if isinstance(given, Mapping) else None
    return given


@functools.lru_cache(maxsize=64)
def mapped_format(keys: tuple[str, ...]) -> str | None:
    """The one format that reads all mapped columns of formats; None if there are several or none is mapped."""
    mapped = {key for key in keys if key in COLUMNS}
    names = {f.name for f in FORMATS if mapped <= {*f.columns, *f.optional}}
    return names.pop() if mapped and len(names) == 1 else None


def _with_targets(turns: tuple[Turn, ...], train_on: str | tuple[str, ...]) -> tuple[Turn, ...]:
    """The turns with `train_on` applied. What a turn says of itself stays: only False keeps it from being learned."""
    if train_on == "all":
        return turns
    if train_on == "last":
        last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
        return tuple(
            replace(turn, learn=False) if turn.role == "assistant" and i != last else turn
            for i, turn in enumerate(turns)
        )
    return tuple(
        replace(turn, learn=turn.role in train_on) if turn.learn is not False else turn for turn in turns
    )


def _odd(turns: tuple[Turn, ...]) -> Iterator[str]:
    """What is unusual about the order of the turns, as a chat template may take it and a person may not have meant."""
    roles = [turn.role for turn in turns if turn.role not in ("system", "developer")]
    if roles[:1] == ["assistant"]:
        yield "begin with an answer that no request precedes"
    if any(a == b and a in ("user", "assistant") for a, b in itertools.pairwise(roles)):
        yield "have two turns of the same role in a row"
    if any(role == "tool" for role in roles):
        called = False
        for turn in turns:
            if turn.role == "tool" and not called:
                yield "have a result of a tool that no call precedes"
                break
            called = bool(turn.extra.get("tool_calls")) or (called and turn.role == "tool") or _in_text(turn)
    if any(turn.role == "assistant" and turn.learned and not turn.is_target for turn in turns) and any(
        turn.is_target for turn in turns
    ):
        yield "have blank answers beside others, of which the end of the turn is learned"


def _in_text(turn: Turn) -> bool:
    """Whether an answer may write a call into its text."""
    return turn.role == "assistant" and any(sign in turn.content for sign in "{[<")


@dataclass(frozen=True)
class _Layout:
    """What the columns of a row mean; computed once for all rows with the same columns.

    Attributes:
        chosen: The format; None if no format fits.
        rivals: Columns of other formats, by format, that are there too.
        by_name: Columns that are refused because the source does not name its format.
        refused: Whether columns are there that may have to be refused.
        unused: Columns that nothing reads.
    """

    chosen: Format | None
    rivals: tuple[tuple[Format, tuple[str, ...]], ...] = ()
    by_name: tuple[str, ...] = ()
    refused: bool = False
    unused: tuple[str, ...] = ()


@functools.lru_cache(maxsize=1024)
def _layout(names: tuple[str, ...], wanted: str | None) -> _Layout:
    refused = any(name in REFUSED for name in names)
    chosen = next(
        (f for f in FORMATS if wanted in (None, f.name) and all(column in names for column in f.columns)),
        None,
    )
    if chosen is None:
        return _Layout(None, refused=refused)
    used = (*chosen.columns, *chosen.optional)
    unused = tuple(name for name in names if name not in used and name not in _HONOURED)
    if wanted is not None:
        return _Layout(chosen, refused=refused, unused=unused)
    rivals = []
    for other in FORMATS:
        columns = [column for column in other.columns if column in names]
        complete = len(columns) == len(other.columns) or chosen.name == "text"
        if complete and any(column not in used for column in columns):
            rivals.append((other, tuple(columns)))
    by_name = tuple(name for name in names if name in BY_NAME and name not in used)
    return _Layout(chosen, tuple(rivals), by_name, refused, unused)


def is_row(record: Mapping[str, Any]) -> bool:
    """Whether the columns are those of a format."""
    return any(all(column in record for column in f.columns) for f in FORMATS)


def _unrecognised(given: Mapping[str, Any], wanted: str | None) -> RowFault:
    """Why the columns make no row."""
    names = ", ".join(sorted(map(str, given))) or "none"
    if wanted is not None:
        needed = " or ".join(" and ".join(f.columns) for f in FORMATS if f.name == wanted)
        rule = f"a row of format {wanted} needs {needed}"
        return RowFault("columns", rule, names, "name the format of the rows, or leave `format` out")
    if "chosen" in given or "rejected" in given:
        return RowFault("chosen", PREFERENCE[0], names, PREFERENCE[1])
    if {"role", "content"} <= given.keys() or {"from", "value"} <= given.keys():
        remedy = 'write the list of a conversation as one row: {"messages": [...]}'
        return RowFault("row", "a row must be a conversation, not one of its messages", names, remedy)
    for ask, answer in (("prompt", "completion"), ("instruction", "output"), ("question", "answer")):
        if ask in given:
            rule = f"a row with `{ask}` needs `{answer}`, which is missing or null"
            remedy = (
                f"write `{answer}`, name its column (columns: {{{answer}: NAME}}), or leave these rows out"
            )
            return RowFault(answer, rule, names, remedy)
    for ask, answer in (("prompt", "completion"), ("instruction", "output"), ("question", "answer")):
        if answer in given:
            rule = f"a row with `{answer}` needs `{ask}`, which is missing or null"
            remedy = f"write `{ask}`, name its column (columns: {{{ask}: NAME}}), or leave these rows out"
            return RowFault(ask, rule, names, remedy)
    return RowFault("columns", "no column to train on", names, f"{MAP}, or {FORMS}")


def _refuse_unnamed(name: str, value: Any, chosen: Format) -> None:
    if not is_given(value) or (name == "label" and not isinstance(value, bool)):
        return  # a label that is a class does not judge the answer
    rule, remedy = BY_NAME[name]
    aside = f"to leave it aside, write `format: {chosen.name}` in the source"
    raise RowFault(name, rule, remedy=f"{remedy}; {aside}")


def _refuse_second(
    given: Mapping[str, Any],
    chosen: Format,
    rivals: Sequence[tuple[Format, tuple[str, ...]]],
    content: Content,
) -> None:
    """Refuse a row that holds two formats, unless the second only repeats texts of the first."""
    said = {content} if isinstance(content, str) else {turn.content for turn in content}
    for other, columns in rivals:
        if not all(is_given(given[column]) for column in columns):
            continue
        if all(isinstance(given[column], str) and given[column] in said for column in columns):
            continue
        rest = " and ".join(f"`{column}`" for column in columns if column not in chosen.columns)
        rule = f"the row can be read as {TITLES[chosen.name]}, but has {rest} too"
        ways = [f.name for f in (chosen, other) if len(columns) == len(other.columns) or f is chosen]
        names = " or ".join(f"`format: {name}`" for name in dict.fromkeys(ways))
        remedy = f"write {names} in the source, or remove the columns that are not to be used"
        raise RowFault("columns", rule, ", ".join(sorted(given)), remedy)


def _is_messages(value: Any) -> bool:
    """A list of messages, rather than of text parts."""
    return isinstance(value, list) and not any(isinstance(p, Mapping) and "type" in p for p in value)
