"""JSON of others: bounded in size and depth, and a ValueError for everything that is wrong."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import pytest

from sweepft.bounded_json import read_json, read_json_file
from sweepft.ledger import CommandInbox, commands_path
from sweepft.ledger.codec import encode_row
from sweepft.ledger.lease import read_lease
from sweepft.mirror.status import read_status


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        "[" * 65 + "]" * 65,
        '{"a":' * 100_000,
        "",
        "{",
        "\xff",
        "[1" * 70,
        "9" * 5000,
        '["' + "[" * 200,
    ],
)
def test_read_json__refuses(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong
        read_json(text)
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong
        read_json(text.encode("latin-1"))


@pytest.mark.parametrize("text", ["1e400", "NaN", "-Infinity", "1" + "0" * 400 + ".5", '{"a": [1E+999]}'])
def test_read_json__finite(text: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        read_json(text, finite=True)
    read_json(text)


def test_read_json__brackets_in_texts_do_not_count() -> None:
    value = {"a": "[" * 1000 + '"\\', "b": [[1.5, None, True]], "c": "]" * 1000}
    assert read_json(json.dumps(value)) == value
    assert math.isinf(read_json("1e400"))


def test_read_json__size(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" + "1," * 100 + "1]")
    assert len(read_json_file(tmp_path / "a.json")) == 101
    with pytest.raises(ValueError, match="more than 100 bytes"):
        read_json_file(tmp_path / "a.json", most=100)
    with pytest.raises(OSError, match="regular"):
        read_json_file("/dev/zero")


DEEP = "[" * 20_000 + "]" * 20_000


def test_small_files__what_is_no_such_file_is_none(tmp_path: Path) -> None:
    owner = '{"host":"h","pid":%s,"started":0,"since":%s,"lease_id":"a","boot":"b","namespace":0,"device":0,"time":1}'
    for text in (DEEP, owner % ("1e400", "1"), owner % ("-1", "1"), owner % ("5", "1e300"), "[]", "{"):
        (tmp_path / "lease").write_text(text)
        assert read_lease(tmp_path / "lease") is None
    (tmp_path / "lease").write_text(owner % ("5", "1"))
    assert read_lease(tmp_path / "lease") is not None
    (tmp_path / "mirror").mkdir()
    for text in (
        DEEP,
        '{"uri":5,"process":1}',
        '{"uri":"u","process":1,"time":1e300}',
        '{"uri":"u","process":"x"}',
    ):
        (tmp_path / "mirror" / "state.json").write_text(text)
        assert read_status(tmp_path) is None


def test_commands__lines_that_are_no_commands_are_passed_over(tmp_path: Path) -> None:
    path = commands_path(tmp_path)
    path.parent.mkdir()
    sound = {
        "command": "stop",
        "who": "u@h",
        "command_id": "a",
        "asked": 1.0,
        "arguments": {},
        "trial_id": None,
    }
    deep = b'{"a":' + DEEP.encode() + b"}"
    lines = [b'%s,"crc":%d}\n' % (deep[:-1], zlib.crc32(deep))]
    lines += [
        encode_row({**sound, key: value}) for key, value in (("asked", 1e300), ("asked", True), ("who", 5))
    ]
    lines += [b"x" * 70_000 + b"\n", b"\xff\n", b"\n", encode_row(sound)]
    path.write_bytes(b"".join(lines))
    inbox = CommandInbox(tmp_path)
    assert [c.command for c in inbox.new()] == ["stop"]
    assert inbox.new() == []
