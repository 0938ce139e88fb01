"""The normal form of rows: what there is to learn, and when two rows are the same example."""

from __future__ import annotations

from typing import Any

import pytest

from support.rows import chat, turns
from sweepft.data.rows import Row, Turn

CALL = {"tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn("assistant", "yes"), True),
        (Turn("assistant", "yes", learn=False), False),
        (Turn("assistant", " \n"), False),
        (Turn("assistant", "", extra=CALL), True),
        (Turn("assistant", "", extra={"reasoning_content": "hm"}), True),
        (Turn("assistant", "", extra={"name": "bot"}), False),
        (Turn("user", "yes"), False),
    ],
)
def test_turn__is_target(turn: Turn, expected: bool) -> None:
    assert turn.is_target is expected
    assert chat(("user", "q"), turn).has_target is expected


def test_turn__message_holds_every_key() -> None:
    assert Turn("assistant", "", extra=CALL).message() == {"role": "assistant", "content": "", **CALL}


BASE = chat(("user", "q"), ("assistant", "a"))


@pytest.mark.parametrize(
    ("other", "same_key"),
    [
        (chat(("user", "q"), ("assistant", "a"), domain="math"), True),
        (chat(("user", "q"), ("assistant", "a"), tools=({"name": "add"},)), True),
        (chat(("user", "q"), Turn("assistant", "a", learn=False)), True),
        (chat(("user", "Q "), ("assistant", "a")), True),
        (chat(("user", "q"), Turn("assistant", "a", extra={"reasoning_content": "hm"})), False),
        (Row("q a", None, "here"), False),
    ],
)
def test_row__every_difference_is_written_but_not_all_make_another_example(
    other: Row, same_key: bool
) -> None:
    assert other.written() != BASE.written()
    assert (other.key() == BASE.key()) is same_key


def test_row__key_of_extra_is_blind_to_the_order_of_keys() -> None:
    def row(extra: dict[str, Any]) -> Row:
        return chat(("user", "q"), Turn("assistant", "a", extra=extra))

    assert row({"a": 1, "b": 2}).key() == row({"b": 2, "a": 1}).key()
    assert hash(Turn("user", "q")) == hash(turns(("user", "q"))[0])
