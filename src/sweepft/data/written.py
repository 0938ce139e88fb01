"""Whether a chat template has written what it was given, and where the text differs from the turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sweepft.data.rows import Turn
from sweepft.data.trace import Field, Trace

_SHOWN: Final = 60
_REMEDY: Final = "use another model.chat_template, or leave it out of the data"
TOOLS_REMEDY: Final = "use one that does, such as the built-in chat_template: chatml, or leave the tools out"


class NotRenderedError(ValueError):
    """The template leaves out a turn."""


def check_written(trace: Trace, turns: Sequence[Turn]) -> None:
    """Raise `NotRenderedError` if the template leaves out what it was given.

    Reasoning and other parts of an answer that is written at least in part are no such loss.
    """
    if trace.pieces is None:
        texts = (
            Field(i, "content", turn.content) for i, turn in enumerate(turns) if turn.role != "assistant"
        )
        missing = [text for text in texts if text.text.strip() not in trace.text]
        there: set[int] = set()
    else:
        missing, there = list(trace.missing), {piece.turn for piece in trace.pieces}
    for text in missing:
        role = turns[text.turn].role
        if text.key == "tool_calls":
            raise NotRenderedError(
                f"the chat template does not write the tool calls of turn {text.turn + 1}: {TOOLS_REMEDY}"
            )
        if role != "assistant" or text.turn not in there:
            what = f"turn {text.turn + 1}, whose role is {role}"
            raise NotRenderedError(f"the chat template does not write {what}: {_REMEDY}")


def notes_on(trace: Trace, turns: Sequence[Turn], spans: Sequence[tuple[int, int]]) -> dict[str, str]:
    """What is unusual about how the turns were written, for `Rendered.notes`."""
    notes = {}
    if trace.pieces is None:
        answers = [turn.content.strip() for turn in turns if turn.learned]
        if len(answers) != len(spans) or any(
            answer not in trace.text[start:stop] for answer, (start, stop) in zip(answers, spans, strict=True)
        ):
            notes["not_as_written"] = ""
        return notes
    cut = [text for text in (*trace.missing, *trace.cut) if turns[text.turn].role == "assistant"]
    if cut:
        notes["answer_cut"] = f"turn {cut[0].turn + 1}: {_shortened(cut[0].text)}"
    lost = {(text.turn, text.key) for text in cut}
    changed = [text.turn for text in trace.changed]
    changed += [text.turn for text in trace.cut if turns[text.turn].role != "assistant"]
    for piece in trace.pieces:
        turn = turns[piece.turn]
        whole = (piece.turn, "content") not in lost and not turn.says_more
        if whole and turn.content.strip() not in trace.text[piece.start : piece.stop]:
            changed.append(piece.turn)
        found = any(start <= piece.stop and piece.start <= stop for start, stop in spans)
        if turn.is_target and not found:
            changed.append(piece.turn)
    if changed:
        first = min(changed)
        notes["not_as_written"] = f"turn {first + 1}: {_shortened(turns[first].content)}"
    return notes


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
