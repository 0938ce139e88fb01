"""Chat templates: the text of a conversation, and which part of it is trained on.

Targets are found in *characters* first, from the template's ``{% generation %}`` marks or else by following the text of
each turn into the rendered conversation (`sweepft.data.trace`), and then mapped to tokens. An assistant turn is trained
on from where the generation prompt would end, up to and including the token that ends the turn, so that the model
learns to stop.
(Over 400 lines: where turns begin and end is found by probes that all of `ChatFormat` shares.)
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sweepft.data.render_limits import OutOfHand
from sweepft.data.rows import Turn
from sweepft.data.template_choice import BUILT_IN
from sweepft.data.trace import Piece, Tools, Trace, Tracer
from sweepft.data.written import TOOLS_REMEDY, NotRenderedError, check_written, notes_on
from sweepft.errors import DataError, Problem

Variables = Mapping[str, Any]
_NONE: Final[Variables] = {}
_MOST_FORMATS: Final = 64  # with variables of their own that are kept at once
_THINKS: Final = re.compile(r"<[^<>]*think", re.IGNORECASE)
_MARKS: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE: Final = (Turn("user", "Question one"), Turn("assistant", "Answer one"), Turn("user", "Question two"))
_PROBE_TOOL: Final = (
    {
        "type": "function",
        "function": {"name": "f", "description": "f", "parameters": {"type": "object", "properties": {}}},
    },
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: What is tokenised.
        spans: Target spans as ``[start, stop)`` in characters, ascending, not overlapping.
        weights: Of the targets of each span in the loss; empty where all are 1.
        notes: What a user may want to know, by outcome: ``not_as_written`` (the template changes a text),
            ``answer_cut`` (it leaves out some of an answer, such as its reasoning).
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    notes: Mapping[str, str] = field(default_factory=dict)
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Begin:
    """How a template begins an assistant turn.

    Attributes:
        behind_user: All between a user's text and the answer.
        headers: The generation prompt, and the same without a block of thinking that it opens.
    """

    behind_user: str
    headers: tuple[str, ...]


@dataclass(frozen=True)
class _End:
    """How a template ends an assistant turn.

    Attributes:
        last: The token behind the last answer of a conversation.
        earlier: The token behind an answer that a user turn follows.
        tail: The text that ends an answer where no token does.
        openers: Special tokens that begin a turn, and so end none.
        next_turn: The token that begins a user turn and at which the base model ends its answers, where the template
            writes no other end.
        next_tool: The same of a turn with a tool's answer.
    """

    last: str | None
    earlier: str | None
    tail: str
    openers: frozenset[str]
    next_turn: str | None = None
    next_tool: str | None = None


class ChatFormat:
    """A chat template applied with one tokenizer.

    Attributes:
        template: The Jinja text.
        with_tools: The format of conversations with tools, if the tokenizer has a template of its own for them.
        marked: Whether it has generation marks.
        end_of_turn: The token that ends an assistant turn, or None where the template writes none.
        appended: Whether that token is the one that begins the next turn. It is then put behind the last answer of a
            conversation, where the template writes nothing.
        writes_bos: Whether the template begins with the tokenizer's bos token.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        *,
        tool_template: str | None = None,
        ends: Collection[str] = (),
        probe_tools: Tools = (),
        variables: Variables = _NONE,
    ) -> None:
        """Try the template on a small conversation.

        Args:
            tokenizer: A fast transformers tokenizer.
            template: The Jinja text.
            tool_template: Another one for conversations with tools.
            ends: Tokens at which the base model's generation config ends an answer. If the template writes no end of a
                turn, but the next turn begins with one of them, that is the end, as in GLM-4.
            probe_tools: Tools of the small conversation, for a template that cannot do without.
            variables: Further variables of the template.
        Raises:
            DataError: If it cannot be rendered, or does not separate turns.
        """
        self.template = template
        self.with_tools = (
            None
            if tool_template is None
            else ChatFormat(tokenizer, tool_template, ends=ends, probe_tools=_PROBE_TOOL)
        )
        self.marked = _MARKS.search(template) is not None
        self._tokenizer, self._varied = tokenizer, dict[str, ChatFormat]()
        given = {**tokenizer.special_tokens_map, **variables}
        self._tracer = Tracer(template, given, marked=self.marked)
        special = special_tokens(tokenizer)
        self._special = any_of(special)
        self._added = any_of(special | {token.content for token in tokenizer.added_tokens_decoder.values()})
        self._ends, self._end_tokens, self._probe_tools = any_of(ends), ends, probe_tools
        try:
            self._begin = self._probe_begin()
            self._end = self._probe_end()
        except ValueError as error:
            remedy = "mend the template, or use a built-in one: " + " or ".join(BUILT_IN)
            raise DataError([Problem("chat template", "model.chat_template", str(error), remedy)]) from error
        self.end_of_turn = self._end.last or self._end.earlier or self._end.next_turn
        self.appended = self._end.next_turn is not None
        bos = tokenizer.bos_token
        self.writes_bos = bool(bos) and self._probe(_PROBE[:2]).text.startswith(bos)

    @property
    def templates(self) -> tuple[str, ...]:
        """The texts of all templates that rows are rendered with."""
        return (self.template,) if self.with_tools is None else (self.template, self.with_tools.template)

    def of(self, tools: Tools, variables: Variables = _NONE) -> ChatFormat:
        """The format of a conversation with these tools and variables.

        Raises:
            ValueError: If the template fails with the variables.
        """
        form = self.with_tools if tools and self.with_tools is not None else self
        return form._with(variables) if variables else form

    def _with(self, variables: Variables) -> ChatFormat:
        """The same template with further variables, which may change how a turn begins and ends."""
        key = json.dumps(variables, sort_keys=True)
        if key not in self._varied:
            if len(self._varied) >= _MOST_FORMATS:
                del self._varied[next(iter(self._varied))]
            try:
                self._varied[key] = ChatFormat(
                    self._tokenizer,
                    self.template,
                    ends=self._end_tokens,
                    probe_tools=self._probe_tools,
                    variables=variables,
                )
            except OutOfHand:
                raise
            except DataError as error:
                raise ValueError(error.problems[0].rule) from error
        return self._varied[key]

    def render(self, turns: Sequence[Turn], tools: Tools = (), variables: Variables = _NONE) -> Rendered:
        """Render a conversation and find its target spans; those of turns with ``learn=False`` are left out.

        Args:
            turns: The conversation.
            tools: JSON schemas for the template.
            variables: Further variables for the template.
        Raises:
            NotRenderedError: If the template leaves out a turn, its tool calls, or the tools.
            ValueError: If the template refuses the conversation, or an answer to learn cannot be found in its text.
        """
        form = self.of(tools, variables)
        if form is not self:
            return form.render(turns, tools)
        trace = self._tracer.trace(turns, tools)
        check_written(trace, turns)
        if tools and trace.text == self._without_tools(turns):
            raise NotRenderedError(f"the chat template does not write the tools: {TOOLS_REMEDY}")
        spans = self._marked(trace, turns) if self.marked else self._traced(trace, turns, tools)
        weights = tuple(_weight(span, trace.followed(), turns) for span in spans) if _weighted(turns) else ()
        text, spans = self._ended(trace.text, spans, turns)
        return Rendered(text, tuple(spans), notes_on(trace, turns, spans), weights)

    def _without_tools(self, turns: Sequence[Turn]) -> str | None:
        try:
            return self._tracer.render(turns).text
        except ValueError:  # a template for tools alone
            return None

    def _ended(
        self, text: str, spans: list[tuple[int, int]], turns: Sequence[Turn]
    ) -> tuple[str, list[tuple[int, int]]]:
        """With the token that would begin the next turn behind the last answer, if that one is learned."""
        end = self._end.next_turn
        if end is None or not spans or turns[-1].role != "assistant" or not turns[-1].learned:
            return text, spans
        *before, (start, stop) = spans
        if text[stop:].strip():
            return text, spans
        if turns[-1].extra.get("tool_calls"):
            end = self._end.next_tool or end
        return text[:stop] + end, [*before, (start, stop + len(end))]

    def _probe(self, turns: Sequence[Turn], *, prompt: bool = False) -> Trace:
        return self._tracer.trace(turns, self._probe_tools, prompt=prompt)

    def _probe_begin(self) -> _Begin:
        """How the template begins an assistant turn."""
        try:
            prompt = self._probe(_PROBE[:1], prompt=True)
            behind = prompt.text[prompt.followed()[-1].stop :]
            bare = self._probe(_PROBE[:1]).text
        except (ValueError, IndexError):  # no conversation without an answer
            return _Begin("", ())
        header = prompt.text[len(_common(prompt.text, bare)) :]
        headers = (header, _THINKS.split(header)[0])
        return _Begin(behind, tuple(h for h in dict.fromkeys(headers) if h.strip()))

    def _probe_end(self) -> _End:
        """How the template ends an assistant turn, last in the conversation or not."""
        question, answer = (turn.content for turn in _PROBE[:2])
        trace = self._probe(_PROBE[:2])
        pieces = {piece.turn: piece for piece in trace.followed()}
        marks = [trace.text[start:stop] for start, stop in trace.marks if stop > start]
        if 1 not in pieces or (
            self.marked and (len(marks) != 1 or answer not in marks[0] or question in marks[0])
        ):
            raise ValueError("the template must write an assistant turn, and marks must hold nothing else")
        after = trace.text[pieces[1].stop :]
        last = _first(self._added, after)
        try:
            dialog = self._probe(_PROBE)
            asked, answered, then = dialog.followed()
        except ValueError:  # not with these turns, or in another order: rows are looked at one by one
            return _End(last, last, "", frozenset())
        between = dialog.text[answered.stop : then.start]
        opening = dialog.text[: asked.start] + "".join(self._begin.headers)
        openers = frozenset(self._special.findall(opening)) - {last}
        earlier = _first(self._added, between, openers)
        if last is None and earlier is None and (next_turn := _first(self._ends, between)):
            return _End(None, None, "", openers, next_turn, self._probe_next_tool())
        return _End(last, earlier, _common(after, between), openers)

    def _probe_next_tool(self) -> str | None:
        """The token that begins a tool's answer, if it ends the call."""
        with contextlib.suppress(ValueError):
            trace = self._probe((*_PROBE[:2], Turn("tool", "Result one")))
            _, answer, result = trace.followed()
            return _first(self._ends, trace.text[answer.stop : result.start])
        return None

    def _marked(self, trace: Trace, turns: Sequence[Turn]) -> list[tuple[int, int]]:
        spans = [(start, stop) for start, stop in trace.marks if stop > start]
        if not all(turn.learned for turn in turns if turn.role == "assistant"):
            spans = [span for span in spans if _is_learned(span, trace.followed(), turns)]
        spans = [self._to_end(trace.text, start, stop) for start, stop in spans]
        if any(turn.learned and turn.role != "assistant" for turn in turns):
            spans = sorted([*spans, *self._others(trace, turns)])
        return spans

    def _others(self, trace: Trace, turns: Sequence[Turn]) -> Iterator[tuple[int, int]]:
        """Spans of turns to learn that are no answers: the text, and the token that ends the turn if there is one."""
        pieces = trace.followed()
        for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
            if turns[piece.turn].role == "assistant" or not turns[piece.turn].learned:
                continue
            limit = len(trace.text) if following is None else following.start
            ends = self._special.finditer(trace.text, piece.stop, limit)
            end = next((found for found in ends if found.group() not in self._end.openers), None)
            yield piece.start, piece.stop if end is None else end.end()

    def _to_end(self, text: str, start: int, stop: int) -> tuple[int, int]:
        """Extend a marked span to just behind the token that ends the turn."""
        end = self.end_of_turn
        if end is None:
            return start, stop
        if self._end.next_turn is not None:
            return start, self._to_next(text, stop)
        head = text[start:stop].rstrip()
        if head.endswith(end):
            return start, start + len(head)
        return start, stop + len(end) if text.startswith(end, stop) else stop

    def _to_next(self, text: str, stop: int) -> int:
        """Behind the token of the next turn that ends an answer, if one follows."""
        following = self._ends.match(text, stop + len(text[stop:]) - len(text[stop:].lstrip()))
        return following.end() if following else stop

    def _traced(self, trace: Trace, turns: Sequence[Turn], tools: Tools) -> list[tuple[int, int]]:
        pieces = trace.followed()
        number = Counter(piece.turn for piece in pieces)
        repeated = {text.turn for text in trace.repeated}
        spans = []
        for i, piece in enumerate(pieces):
            turn = turns[piece.turn]
            if turn.role != "assistant" or not turn.learned:
                continue
            if piece.turn in repeated:
                raise ValueError("the chat template writes the text of an answer more than once")
            if number[piece.turn] > 1:
                raise ValueError("the chat template writes other turns into the text of an answer")
            start = self._start(trace.text, pieces[i - 1].stop if i else 0, piece, turns, tools)
            spans.append((start, self._stop(trace.text, piece, pieces[i + 1 : i + 2], turns, tools)))
        if any(turn.learned and turn.role != "assistant" for turn in turns):
            spans = sorted([*spans, *self._others(trace, turns)])
        return spans

    def _start(self, text: str, lower: int, piece: Piece, turns: Sequence[Turn], tools: Tools) -> int:
        """Where the generation prompt for an answer would end, at least `lower`; else where the answer starts."""
        before = turns[: piece.turn]
        openings = list(self._begin.headers)
        if before and before[-1].role == "user":
            openings.insert(0, self._begin.behind_user)
        elif before and not openings:  # as it is behind turns like the one before
            with contextlib.suppress(ValueError, IndexError):
                prompt = self._tracer.trace(before, tools, prompt=True)
                openings.append(prompt.text[prompt.followed()[-1].stop :])
        for opening in openings:
            at = text.rfind(opening, lower, piece.start)
            if at >= 0:
                return at + len(opening)
        if before and before[-1].role == "tool":  # no header is written behind a result
            with contextlib.suppress(ValueError, IndexError):
                prompt = self._tracer.trace(before, tools, prompt=True)
                asked = prompt.text[prompt.followed()[-1].stop :]
                return lower + len(_common(asked, text[lower : piece.start]))
        return piece.start

    def _stop(
        self, text: str, piece: Piece, following: Sequence[Piece], turns: Sequence[Turn], tools: Tools
    ) -> int:
        """Behind the token that ends an answer, or the text that does where the template writes no such token."""
        limit = following[0].start if following else len(text)
        end = self._end.earlier if following else self._end.last
        if turns[piece.turn].extra.get("tool_calls"):
            stop = self._stop_of_calls(text, piece, bool(following), turns, tools)
            if stop is not None:
                return stop if self._end.next_turn is None else self._to_next(text, stop)
        if self._end.next_turn is not None:
            return self._to_next(text, piece.end)
        if end is None:
            tail = self._end.tail
            return next(
                (e + len(tail) for e in (piece.end, piece.stop) if text.startswith(tail, e)), piece.end
            )
        at = text.find(end, piece.stop, limit)
        if at >= 0:
            return at + len(end)
        for other in self._special.finditer(text, piece.stop, limit):  # as behind a tool call
            if other.group() not in self._end.openers:
                return other.end()
        if following and turns[following[0].turn].role == "assistant":
            return limit  # the template joins answers
        raise ValueError(f"the chat template writes no {end} behind an answer")

    def _stop_of_calls(
        self, text: str, piece: Piece, followed: bool, turns: Sequence[Turn], tools: Tools
    ) -> int | None:
        """As `_stop`, behind all that a turn with tool calls writes; None where no next turn is found.

        Numbers and brackets of the arguments are in no piece.
        """
        rest = text[piece.stop :]
        if followed:
            try:
                alone = self._tracer.trace(turns[: piece.turn + 1], tools)
                rest = alone.text[alone.followed()[-1].stop :]
            except (ValueError, IndexError):
                return None
            if not text.startswith(rest, piece.stop):
                return None
        for end in dict.fromkeys((self._end.earlier if followed else self._end.last, self._end.last)):
            if end is not None and end in rest:
                return piece.stop + rest.index(end) + len(end)
        last = [token for token in self._special.finditer(rest) if token.group() not in self._end.openers]
        return piece.stop + (last[-1].end() if last else len(rest.rstrip()))


def special_tokens(tokenizer: Any) -> set[str]:
    """All special tokens of a tokenizer."""
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest where several do."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=lambda t: (-len(t), t)))) or r"(?!)")


def _common(a: str, b: str) -> str:
    """The longest common beginning."""
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def _first(tokens: re.Pattern[str], text: str, without: Container[str] = ()) -> str | None:
    return next((token for token in tokens.findall(text) if token not in without), None)


def _weighted(turns: Sequence[Turn]) -> bool:
    return any(turn.weight != 1.0 and turn.learned for turn in turns)


def _weight(span: tuple[int, int], pieces: Sequence[Piece], turns: Sequence[Turn]) -> float:
    """The weight of the turns that wrote a span.

    Raises:
        ValueError: If they have several.
    """
    start, stop = span
    inside = (p for p in pieces if (p.start < stop and start < p.stop) or start <= p.start == p.stop <= stop)
    weights = {turns[p.turn].weight for p in inside if turns[p.turn].learned}
    if len(weights) > 1:
        raise ValueError("the chat template writes answers of several weights as one")
    return weights.pop() if weights else 1.0


def _is_learned(span: tuple[int, int], pieces: Sequence[Piece], turns: Sequence[Turn]) -> bool:
    """Whether a marked span is of answers to learn."""
    inside = [turns[p.turn] for p in pieces if span[0] <= p.start and p.stop <= span[1]]
    learn = {turn.learned for turn in inside if turn.role == "assistant"}
    if len(learn) > 1:
        raise ValueError("the chat template marks answers to learn and others in one span")
    return learn != {False}
