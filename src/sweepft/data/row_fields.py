"""What a row of any format may have beside its turns: tools, template variables, a system turn, a domain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from sweepft.data.messages import check_unicode, json_in, read_tools, text_of, without_nulls
from sweepft.data.reading import Reading, RowFault
from sweepft.data.rows import Turn
from sweepft.spec.template_variables import variable_problem

Content = tuple[Turn, ...] | str

SYSTEM: Final = ("system", "system_prompt")
VARIABLES: Final = "chat_template_kwargs"
_LONGEST_DOMAIN: Final = 200


def tools_of(given: Mapping[str, Any], content: Content, reading: Reading) -> tuple[Mapping[str, Any], ...]:
    """The definitions of tools in `tools` or `functions`; none without either."""
    names = [name for name in ("tools", "functions") if is_given(given.get(name))]
    if not names:
        return ()
    if isinstance(content, str):
        raise RowFault(names[0], "a plain text has no tools", remedy="write the row as `messages`")
    if len(names) > 1:
        raise RowFault("tools", "the row has tools and functions", remedy="keep one of them")
    if names == ["tools"]:
        return read_tools(given["tools"], reading)
    functions = read_tools(given["functions"], reading)
    return tuple(f if "function" in f else {"type": "function", "function": f} for f in functions)


def variables_of(given: Mapping[str, Any], content: Content) -> Mapping[str, Any]:
    """Variables of the chat template that the row gives; null in a table is none."""
    value = given.get(VARIABLES)
    if not is_given(value):
        return {}
    if isinstance(content, str):
        rule, remedy = "a plain text is written without a chat template", "write the row as `messages`"
        raise RowFault(VARIABLES, rule, remedy=remedy)
    found = without_nulls(json_in(value))
    if not isinstance(found, Mapping):
        remedy = 'for example {"enable_thinking": false}'
        raise RowFault(VARIABLES, "must be an object of variables", value, remedy)
    check_unicode(found, VARIABLES)
    if (problem := variable_problem(found)) is not None:
        name, rule, remedy = problem
        raise RowFault(f"{VARIABLES}.{name}", rule, found[name], remedy)
    return found


def with_system(content: Content, given: Mapping[str, Any], default: str | None) -> Content:
    """The conversation with the system turn of its column, or of its source."""
    texts = {text_of(given[name], name) for name in SYSTEM if is_given(given.get(name))}
    if not texts:
        has_own = not isinstance(content, str) and any(turn.role == "system" for turn in content)
        if default is None or has_own:
            return content
        texts = {default}
    if len(texts) > 1:
        raise RowFault("system", "system and system_prompt differ", remedy="keep one of them")
    [text] = texts
    if isinstance(content, str):
        raise RowFault("system", "a plain text has no system turn", remedy="write the row as `messages`")
    own = [turn.content for turn in content if turn.role == "system"]
    if not own:
        return Turn("system", text), *content
    if own != [text]:
        rule = "the row has a system column and another system message"
        raise RowFault("system", rule, text, "keep one of them")
    return content


def domain_of(given: Mapping[str, Any]) -> str | None:
    """The row's own domain; None if its source's applies."""
    own = given.get("domain")
    if own is None:
        return None
    if isinstance(own, str):
        if not own.isprintable() or len(own) > _LONGEST_DOMAIN:
            rule = f"a domain must be one line of printable text, of {_LONGEST_DOMAIN} characters at most"
            raise RowFault("domain", rule, own[:_LONGEST_DOMAIN], "give the source its own: `domain: NAME`")
        return text_of(own, "domain")
    if isinstance(own, int) and not isinstance(own, bool):
        return str(own)
    remedy = "write it as text, leave it out, or give the source its own: `domain: NAME`"
    raise RowFault("domain", "a domain must be text or a whole number", own, remedy)


def is_missing(value: Any) -> bool:
    """Whether a table has no value there."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_given(value: Any) -> bool:
    """Whether a value says anything: an empty one is as good as none."""
    return value is not None and value not in ("", [], {})
