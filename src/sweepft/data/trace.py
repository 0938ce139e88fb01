"""Which characters of a rendered conversation come from which turn.

A chat template is a program: it may strip a turn, drop its reasoning, move it or leave it out. A conversation is
therefore rendered twice: as it is, and with the characters of its turns replaced, one by one, by code points that no
text has. The second text then says of each of its characters which character of which turn it is. White space, and what
the template may search a turn for (``</think>``), stay as they are, so that the template does the same both times. If
the two texts are equal everywhere else, the characters of the second one name those of the first.
(Over 400 lines: masking a text and reading it back use the same tables of placeholders.)
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sweepft.data.render_limits import (
    CHARACTERS,
    MEMORY,
    SECONDS,
    OutOfHand,
    TooLong,
    bound_numbers,
    render_limits,
)
from sweepft.data.rows import Turn
from sweepft.errors import Problem

Tools = Sequence[Mapping[str, Any]]

_FIRST: Final = 0x40000  # from here on Unicode assigns no characters, and private ones at the end
_CODES: Final = 0x110000 - _FIRST
_KEPT: Final = "\\x00-\\x1f\"'\\\\<>&"  # what indent, tojson and escape treat differently
_LONGEST_LITERAL: Final = 40
_DEPENDS: Final = (
    "what the chat template writes depends on what the turns say, in a way that cannot be followed: put "
    "{% generation %} and {% endgeneration %} around the assistant's part of the template"
)


@dataclass(frozen=True, slots=True)
class Field:
    """A text of a message.

    Attributes:
        turn: Number of the turn.
        key: Its key in the message; names and arguments of calls are under ``tool_calls``.
        text: As in the data.
        named: Whether it is the name of a function, which a template may write again beside the result.
    """

    turn: int
    key: str
    text: str
    named: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered text that one turn wrote: characters ``[start, stop)``.

    Attributes:
        turn: Number of the turn.
        start: Its first character that is no white space.
        stop: Behind its last character that is no white space; equal to `start` where a blank answer would be.
        end: Behind the white space that follows in the turn, and in the text.
    """

    turn: int
    start: int
    stop: int
    end: int


@dataclass(frozen=True)
class Trace:
    """A rendered conversation and where its turns are.

    Attributes:
        text: The conversation as the template writes it.
        marks: What the template marks with ``{% generation %}``, as ``[start, stop)``.
        pieces: Parts by turn, ascending; None if they cannot be located.
        missing: Texts of which nothing is written.
        cut: Texts of which a part is written.
        changed: Texts that are written with other characters.
        repeated: Texts of which some part is written more than once.
    """

    text: str
    marks: tuple[tuple[int, int], ...]
    pieces: tuple[Piece, ...] | None = None
    missing: tuple[Field, ...] = ()
    cut: tuple[Field, ...] = ()
    changed: tuple[Field, ...] = ()
    repeated: tuple[Field, ...] = ()

    def followed(self) -> tuple[Piece, ...]:
        """The pieces.

        Raises:
            ValueError: If they cannot be located, with the reason.
        """
        if self.pieces is None:
            raise ValueError(_DEPENDS)
        return self.pieces


class Tracer:
    """Renders conversations with one template and follows the text of their turns."""

    def __init__(self, template: str, variables: Mapping[str, Any], *, marked: bool) -> None:
        """Set up.

        Args:
            template: The Jinja text.
            variables: Further variables for the template, such as the tokenizer's special tokens.
            marked: Whether the template has generation marks.
        """
        bound_numbers()
        self._template = template
        self._variables = variables
        self._marked = marked
        self._literals = _literals(template)

    def trace(self, turns: Sequence[Turn], tools: Tools = (), *, prompt: bool = False) -> Trace:
        """Render a conversation and find out which turn wrote what.

        Args:
            turns: The conversation.
            tools: JSON schemas for the template.
            prompt: Whether to end with the generation prompt.
        Raises:
            ValueError: If the template refuses the conversation, with its message.
        """
        turns = self._with_arguments(turns, tools, prompt)
        messages = [turn.message() for turn in turns]
        blank = any(_is_blank_answer(turn) for turn in turns)
        for spaces, answers_only in ((False, False), (True, False), (True, True)):
            for places in (True, False)[not blank :]:
                masks = _Masks(self._literals, turns, spaces=spaces, answers_only=answers_only, places=places)
                try:
                    (text, masked), marks = self._render([messages, masks.messages], tools, prompt)
                except ValueError:
                    self.render(turns, tools, prompt=prompt)  # raises where the masks are not the reason
                    continue
                found = masks.follow(text, masked)
                if found is not None:
                    return Trace(text, marks, **found)
        return self.render(turns, tools, prompt=prompt)

    def render(self, turns: Sequence[Turn], tools: Tools = (), *, prompt: bool = False) -> Trace:
        """As `trace`, without the pieces."""
        turns = self._with_arguments(turns, tools, prompt)
        (text,), marks = self._render([[turn.message() for turn in turns]], tools, prompt)
        return Trace(text, marks)

    def _with_arguments(self, turns: Sequence[Turn], tools: Tools, prompt: bool) -> Sequence[Turn]:
        """The turns with the arguments of calls as the template takes them: as objects, or else as JSON text.

        Some templates put arguments into their text as they are (DeepSeek's): they fail with an object, or write it as
        Python does.
        """
        objects = [
            arguments for turn in turns for arguments in _arguments(turn) if isinstance(arguments, Mapping)
        ]
        if not objects:
            return turns
        as_text = [_with_text_arguments(turn) for turn in turns]
        try:
            (text,), _ = self._render([[turn.message() for turn in turns]], tools, prompt)
        except ValueError:
            try:
                self._render([[turn.message() for turn in as_text]], tools, prompt)
            except ValueError:
                return turns
            return as_text
        return as_text if any(arguments and str(arguments) in text for arguments in objects) else turns

    def _render(
        self, conversations: list[list[dict[str, Any]]], tools: Tools, prompt: bool
    ) -> tuple[list[str], tuple[tuple[int, int], ...]]:
        """Texts of all conversations, and the marks of the first."""
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            with render_limits():
                texts, marks = render_jinja_template(
                    conversations=conversations,
                    tools=list(tools) or None,
                    chat_template=self._template,
                    add_generation_prompt=prompt,
                    return_assistant_tokens_mask=self._marked,
                    **self._variables,
                )
        except TooLong:
            raise self._refused(f"takes more than {SECONDS:.0f} seconds for one conversation") from None
        except MemoryError:
            raise self._refused(f"needs more than {MEMORY >> 30} GiB for one conversation") from None
        except Exception as error:  # a template is a program and may raise anything
            raise ValueError(f"the chat template refuses the conversation: {error}") from error
        if any(len(text) > CHARACTERS for text in texts):
            raise self._refused(
                f"writes more than {CHARACTERS >> 20} million characters for one conversation"
            )
        return texts, tuple(marks[0]) if self._marked else ()

    def _refused(self, rule: str) -> OutOfHand:
        remedy = "mend the template, or name another one in model.chat_template"
        return OutOfHand(
            [Problem("chat template", "model.chat_template", rule, remedy, self._template[:200])]
        )


class _Masks:
    """Messages with masked characters, and the way back from a masked character to its turn."""

    def __init__(
        self,
        literals: Sequence[str],
        turns: Sequence[Turn],
        *,
        spaces: bool,
        answers_only: bool,
        places: bool,
    ) -> None:
        """Mask the messages.

        Args:
            literals: Strings that are not masked.
            turns: The conversation.
            spaces: Whether spaces between words are not masked either, for templates that split or wrap texts.
            answers_only: Whether only assistant turns are masked, for templates that look into the others.
            places: Whether blank answers get a character that shows where they would be.
        """
        self._literals = literals
        self._spaces = spaces
        self._fields: list[Field] = []
        self._masks: list[str] = []  # each field with masked characters, without white space around it
        self._masked: list[int] = []  # characters of each field that are masked
        self._sizes: list[int] = []
        self._places: list[bool] = []  # whether the field is the place of a blank answer, which has no text
        self._size = 0
        self._unmasked: list[Field] = []  # texts to look for as they are
        self.messages = []
        for i, turn in enumerate(turns):
            message = turn.message()
            if answers_only and turn.role != "assistant":
                self._unmasked.append(Field(i, "content", turn.content))
            elif places and _is_blank_answer(turn):
                message["content"] += self._place(i)
            else:
                for key, text in turn.texts():
                    message[key] = self._mask(Field(i, key, text))
                if message.get("tool_calls"):
                    message["tool_calls"] = self._calls(i, message["tool_calls"])
            self.messages.append(message)

    def _calls(self, turn: int, value: Any, inside: bool = False, named: bool = False) -> Any:
        """Tool calls with names and arguments masked; ids and types stay, for the template compares them."""
        if isinstance(value, str) and inside:
            return self._mask(Field(turn, "tool_calls", value, named))
        if isinstance(value, Mapping):
            return {
                k: self._calls(turn, v, inside or k in ("name", "arguments"), not inside and k == "name")
                for k, v in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._calls(turn, v, inside) for v in value]
        return value

    def _place(self, turn: int) -> str:
        code = _alphabet()[self._size]
        self._add(Field(turn, "content", "\0"), 1, code, place=True)
        return code

    def _mask(self, field: Field) -> str:
        text, codes = field.text, _alphabet()[self._size : self._size + len(field.text)]
        if len(codes) < len(text):
            raise ValueError(f"a conversation may have at most {_CODES} characters")
        start = len(text) - len(text.lstrip())
        stop = start + len(text.strip())
        searched = tuple(x for x in self._literals if x in text)
        kept = [m.span() for m in _kept(searched, self._spaces).finditer(text, start, stop)]
        if sum(b - a for a, b in kept) == stop - start:  # keep white space alone
            kept = [m.span() for m in re.finditer(r"\s+", text[:stop]) if m.start() >= start]
        out, at, size = [text[:start]], start, 0
        for a, b in kept:
            out += (codes[at:a], text[a:b])
            at, size = b, size + b - a
        out += (codes[at:stop], text[stop:])
        masked = "".join(out)
        self._add(field, stop - start - size, masked)
        return masked

    def _add(self, field: Field, number: int, masked: str, *, place: bool = False) -> None:
        self._fields.append(field)
        self._masks.append(masked.strip())
        self._masked.append(number)
        self._places.append(place)
        self._sizes.append(len(field.text))
        self._size += len(field.text)

    def follow(self, text: str, masked: str) -> dict[str, Any] | None:
        """What `Trace` says of the turns; None if the two texts differ elsewhere."""
        return self.follow_whole(text, masked) or self.follow_characters(text, masked)

    def follow_whole(self, text: str, masked: str) -> dict[str, Any] | None:
        """`follow` where each text is written once and unchanged, but for white space around it: the usual case."""
        found = []
        for field, mask, number, place in zip(
            self._fields, self._masks, self._masked, self._places, strict=True
        ):
            if not mask:
                continue
            at = masked.find(mask)
            if place or not number or at < 0 or masked.find(mask, at + 1) >= 0:
                return None
            found.append((at, at + len(mask), field))
        found.sort(key=lambda x: x[0])
        out: list[str] = []
        at = 0
        for start, stop, field in found:
            out += (masked[at:start], field.text.strip())
            at = stop
        out.append(masked[at:])
        if "".join(out) != text:
            return None
        pieces: list[Piece] = []
        for (start, stop, field), limit in zip(
            found, [*(start for start, _, _ in found[1:]), len(text)], strict=True
        ):
            end = stop + self._beside(field.text[len(field.text.rstrip()) :], text[stop:limit], 1)
            begin = pieces.pop().start if pieces and pieces[-1].turn == field.turn else start
            pieces.append(Piece(field.turn, begin, stop, end))
        missing = tuple(f for f in self._unmasked if f.text.strip() not in text)
        return {"pieces": tuple(pieces), "missing": missing}

    def follow_characters(self, text: str, masked: str) -> dict[str, Any] | None:
        """`follow`, one character at a time."""
        true, shown = _codes(text), _codes(masked)
        at: npt.NDArray[Any] = np.flatnonzero(shown >= _FIRST)
        source: npt.NDArray[Any] = (shown[at] - _FIRST).astype(np.int64)
        if len(source) and source.max() >= self._size:
            return None
        sizes = np.array(self._sizes, np.int64)
        field: npt.NDArray[Any] = np.repeat(np.arange(len(sizes)), sizes)[source]
        place: npt.NDArray[Any] = np.array(self._places, np.bool_)[field]
        if place.any():
            shown = np.delete(shown, at[place])
            at = at - np.cumsum(place) + place
        if len(shown) != len(true):
            return None
        real = at[~place]
        same = true == shown
        same[real] = True
        if not same.all():
            return None
        again = np.array([f.named for f in self._fields], np.bool_)[field]
        if again.any():
            first = np.zeros(len(source), np.bool_)
            first[np.unique(source, return_index=True)[1]] = True
            at, field, source, place = (x[first | ~again] for x in (at, field, source, place))
        written = _codes("".join(f.text for f in self._fields))[source]
        return {
            "pieces": tuple(self._pieces(text, at, field, source, place)),
            **self._losses(text, field, source, place | (true[np.minimum(at, len(true) - 1)] == written)),
        }

    def _losses(
        self,
        text: str,
        field: npt.NDArray[np.int64],
        source: npt.NDArray[np.int64],
        as_written: npt.NDArray[np.bool_],
    ) -> dict[str, tuple[Field, ...]]:
        n = len(self._fields)
        counts = np.bincount(field, minlength=n)
        changed = set(field[~as_written].tolist())
        times = np.bincount(source, minlength=self._size)
        repeated = set(field[times[source] > 1].tolist()) if len(times) and times.max() > 1 else set()
        expected = np.array(self._masked, np.int64)
        missing = [f for i, f in enumerate(self._fields) if counts[i] == 0 < expected[i]]
        missing += [f for f in self._unmasked if f.text.strip() not in text]
        return {
            "missing": tuple(missing),
            "cut": tuple(f for i, f in enumerate(self._fields) if 0 < counts[i] < expected[i]),
            "changed": tuple(self._fields[i] for i in sorted(changed)),
            "repeated": tuple(self._fields[i] for i in sorted(repeated)),
        }

    def _pieces(
        self,
        text: str,
        at: npt.NDArray[np.int64],
        field: npt.NDArray[np.int64],
        source: npt.NDArray[np.int64],
        place: npt.NDArray[np.bool_],
    ) -> Iterator[Piece]:
        """Runs of characters of one turn, with the unmasked characters of its text beside them."""
        if not len(at):
            return
        turn = np.array([f.turn for f in self._fields], np.int64)[field]
        first = np.flatnonzero(np.concatenate([[True], turn[1:] != turn[:-1]]))
        last = np.append(first[1:], len(turn)) - 1
        offset = source - np.concatenate([[0], np.cumsum(self._sizes)])[field]
        heads = zip(*(x[first].tolist() for x in (turn, at, field, offset, place)), strict=True)
        ends = zip(*(x[last].tolist() for x in (at, field, offset, place)), strict=True)
        limits = [*at[first[1:]].tolist(), len(text)]
        before = 0
        for (i, at_a, field_a, offset_a, place_a), (at_b, field_b, offset_b, place_b), limit in zip(
            heads, ends, limits, strict=True
        ):
            start, stop = at_a, at_b + (not place_b)
            if not place_a:
                start -= self._beside(self._fields[field_a].text[:offset_a], text[before:at_a], -1)
            end = stop
            if not place_b:
                end += self._beside(self._fields[field_b].text[offset_b + 1 :], text[stop:limit], 1)
                written = text[start:end]
                stop = start + len(written.rstrip())
                start += len(written) - len(written.lstrip())
            yield Piece(i, start, stop, end)
            before = end

    def _beside(self, own: str, text: str, step: int) -> int:
        """How many characters of `own`, which were not masked, `text` begins with (step 1) or ends with (step -1)."""
        found = 0
        while own and text:
            ends = str.startswith if step > 0 else str.endswith
            unit = next((x for x in self._literals if ends(own, x)), own[0 if step > 0 else -1])
            if not ends(text, unit):
                break
            n = len(unit)
            own, text = (own[n:], text[n:]) if step > 0 else (own[:-n], text[:-n])
            found += n
        return found


def _arguments(turn: Turn) -> Iterator[Any]:
    for call in turn.extra.get("tool_calls") or ():
        yield (call.get("function") or call).get("arguments")


def _with_text_arguments(turn: Turn) -> Turn:
    """The turn with the arguments of its calls as JSON text."""

    def written(call: Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(call.get("function"), Mapping):
            return {**call, "function": written(call["function"])}
        arguments = call.get("arguments")
        if not isinstance(arguments, Mapping):
            return call
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}

    calls = turn.extra.get("tool_calls")
    return replace(turn, extra={**turn.extra, "tool_calls": list(map(written, calls))}) if calls else turn


def _is_blank_answer(turn: Turn) -> bool:
    return turn.role == "assistant" and not turn.content.strip() and not turn.says_more


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@functools.cache
def _alphabet() -> str:
    return np.arange(_FIRST, _FIRST + _CODES, dtype=np.uint32).tobytes().decode("utf-32-le")


@functools.lru_cache(maxsize=1024)
def _kept(literals: tuple[str, ...], spaces: bool) -> re.Pattern[str]:
    """Matches what is not masked: some characters, and `literals`, longest first."""
    single = "".join(re.escape(x) for x in literals if len(x) == 1) + r"\s" * spaces
    longer = [re.escape(x) for x in literals if len(x) > 1]
    return re.compile(f"(?:{'|'.join([*longer, f'[{_KEPT}{single}]'])})+")


def _literals(template: str) -> tuple[str, ...]:
    """Strings in the template's code that it may search a turn for, longest first."""
    import jinja2

    try:
        tokens = [
            (kind, value)
            for _, kind, value in jinja2.Environment(autoescape=True).lex(template)
            if kind not in ("whitespace", "data", "comment")
        ]
    except jinja2.TemplateSyntaxError:
        return ()  # rendering gives the error
    found = set()
    for (_, before), (kind, value), (_, after) in zip(
        [("", ""), *tokens], tokens, [*tokens[1:], ("", "")], strict=False
    ):
        if kind != "string":
            continue
        try:
            text = str(ast.literal_eval(value)).strip()
        except (ValueError, SyntaxError):
            continue
        searched = before == "(" or after in ("in", "not") or re.search(r"[^\w\s]", text)
        if searched and 0 < len(text) <= _LONGEST_LITERAL:
            found.add(text)
    return tuple(sorted(found, key=lambda x: (-len(x), x)))
