"""Writer and reader of the ledger: rows are read as written, or refused with the number of the row."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import math
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import textwrap
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sweepft.ledger
from support.errors import raises
from support.ledger_builder import LedgerBuilder
from sweepft.errors import LedgerCorrupt, LedgerError, LedgerVersion, StorageError, SweepftError, UnsafePath
from sweepft.ledger import (
    SCHEMA_VERSION,
    Command,
    Ledger,
    LedgerTail,
    SweepState,
    has_trials,
    iter_ledger,
    ledger_path,
    ranking,
    read_ledger,
    send_command,
)
from sweepft.ledger.codec import decode_row, encode_row, plain
from sweepft.ledger.rows import KINDS, NUMBER_FIELDS, complete_fields

HEADER = {
    "name": "s",
    "spec": {"a": 1},
    "spec_digest": "d",
    "seed": 0,
    "budget_samples": 100,
    "sweepft_version": "0",
}


def trial(ledger: Ledger, number: int, **params: object) -> str:
    name = f"t{number:03d}"
    ledger.append(
        "trial",
        trial_id=name,
        number=number,
        params={"learning_rate": 10.0**-number, "note": "nan", **params},
        train_config={},
        origin="sampler",
        planned_steps=10,
        warmup_steps=0,
    )
    return name


def small_run(run_dir: Path, trials: int = 3) -> list[dict]:
    rows = []
    with Ledger.create(run_dir) as ledger:
        rows.append(ledger.append("sweep", **HEADER))
        for n in range(trials):
            name = trial(ledger, n)
            ledger.append("start", trial_id=name, attempt=0, slot=0)
            history = {k: np.arange(1, 4) for k in ("step", "samples_seen", "tokens_seen", "lr", "seconds")}
            history |= {"loss": [1.0, math.nan, math.inf], "grad_norm": np.float32([1, 2, 3])}
            ledger.append("steps", trial_id=name, attempt=0, history=history)
            ledger.append(
                "end",
                trial_id=name,
                attempt=0,
                status="completed",
                reason=None,
                objective=1.0 + n,
                step=3,
                samples_seen=100,
                tokens_seen=3,
            )
    return read_ledger(run_dir)


def ranks(rows: list[dict]) -> list[tuple]:
    return [(r.rank, r.trial.trial_id, r.trial.objective) for r in ranking(SweepState.from_rows(rows))]


def same(a: object, b: object) -> bool:
    """Equality that holds NaN equal to itself."""
    return repr(a) == repr(b)


# --- the kinds ------------------------------------------------------------------------------------


def test_rows__kinds_and_fields_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.split("## The ledger")[1]
    table = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)`", section, re.M))
    assert set(table) == set(KINDS)
    for kind, listed in table.items():
        documented = re.findall(r"\w+", re.sub(r'\([^)]*\)|"[^"]*"', " ", listed))
        documented = [w for w in documented if w not in ("or", "null")]
        extra = {"resumed"} if kind == "sweep" else set()
        assert {f.name for f in fields(KINDS[kind])} == set(documented) | extra, kind


def test_ledger__exports_what_it_names() -> None:
    assert all(hasattr(sweepft.ledger, name) for name in sweepft.ledger.__all__)


def test_number_fields__are_those_of_number_types() -> None:
    assert NUMBER_FIELDS["steps"] == {"history", "blocks", "phase_seconds"}
    assert NUMBER_FIELDS["decision"] == {"rung", "p_top", "evidence", "score"}
    for kind, row in KINDS.items():
        assert not {f.name for f in fields(row) if str(f.type).startswith("str")} & NUMBER_FIELDS[kind]


@pytest.mark.parametrize(
    ("kind", "given_", "words"),
    [
        ("ends", {}, "unknown kind 'ends'"),
        ("finish", {}, "missing status"),
        ("finish", {"status": "finished", "raeson": "x"}, "unknown raeson"),
        ("finish", {"raeson": "x"}, "unknown raeson; missing status"),
    ],
)
def test_complete_fields__names_what_is_wrong(kind: str, given_: dict, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        complete_fields(kind, given_)
    assert words in str(caught.value)


def test_append__first_row_must_be_the_sweep(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "r") as ledger, pytest.raises(ValueError, match="first row"):
        ledger.append("finish", status="finished")


# --- values ---------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(json_values)
def test_codec__what_is_written_is_what_is_read(value: object) -> None:
    line = encode_row({"seq": 0, "kind": "decision", "params": plain(value), "evidence": plain(value)})
    assert line.isascii()
    assert line.count(b"\n") == 1
    row = decode_row(line[:-1])
    assert same(row["params"], plain(value))  # text stays text
    if not re.search(r"'(nan|inf|-inf)'", repr(value)):
        assert same(row["evidence"], value)  # numbers come back as numbers


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array([np.nan, np.inf, -np.inf]), ["nan", "inf", "-inf"]),
        (np.float64("nan"), "nan"),
        ((1, 2), [1, 2]),
        ({1: "a", None: 2, 0.5: 3}, {"1": "a", "null": 2, "0.5": 3}),
        (Path("a/b"), "a/b"),
        (signal.SIGTERM, 15),
    ],
)
def test_plain__converts_values_of_other_types(value: object, written: object) -> None:
    assert plain(value) == written


def test_append__refuses_a_value_that_json_cannot_hold(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "r") as ledger:
        ledger.append("sweep", **HEADER)
        with pytest.raises(TypeError, match=r"params\.a: cannot write a set"):
            trial(ledger, 0, a={1, 2})
        ledger.append("finish", status="finished")
    assert [r["seq"] for r in read_ledger(tmp_path / "r")] == [0, 1]


def test_append__returns_the_row_as_a_reader_gets_it(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "r") as ledger:
        written = [ledger.append("sweep", **HEADER)]
        written.append(
            ledger.append(
                "decision",
                trial_id="nan",
                step=1,
                samples_seen=2,
                rung=0.1,
                action="continue",
                rule="none",
                reason="inf",
                p_top=math.nan,
                evidence={"x": np.float32("inf"), "peers": ("t1", "t2")},
            )
        )
    read = read_ledger(tmp_path / "r")
    assert same(read, written)
    assert read[1]["trial_id"] == "nan"
    assert read[1]["reason"] == "inf"
    assert math.isnan(read[1]["p_top"])
    assert read[1]["evidence"] == {"x": math.inf, "peers": ["t1", "t2"]}


# --- creating, opening, going on ------------------------------------------------------------------


def test_create__makes_a_private_folder_once(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    small_run(run)
    for folder in (run, run / "ledger"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(ledger_path(run).stat().st_mode) == 0o600
    with raises(LedgerError, "ledger.exists"):
        Ledger.create(run)


def test_create__again_after_a_crash_before_the_first_row(tmp_path: Path) -> None:
    Ledger.create(tmp_path / "r").close()
    assert read_ledger(tmp_path / "r") == []
    small_run(tmp_path / "r", 1)


def test_open__continues_with_the_next_row(tmp_path: Path) -> None:
    n = len(small_run(tmp_path / "r"))
    with Ledger.open(tmp_path / "r") as ledger:
        assert ledger.append("sweep", **HEADER, resumed=True)["seq"] == n
        trial(ledger, 7)
    rows = read_ledger(tmp_path / "r")
    assert [r["seq"] for r in rows] == list(range(n + 2))


def test_open__without_a_ledger_names_the_folder(tmp_path: Path) -> None:
    for act in (Ledger.open, read_ledger, SweepState.load):
        with raises(LedgerError, "ledger.missing") as caught:
            act(tmp_path)
        assert str(tmp_path) in str(caught.value)


# --- damage ---------------------------------------------------------------------------------------


def test_read__cut_at_any_byte_gives_an_earlier_state(tmp_path: Path) -> None:
    rows = small_run(tmp_path / "r")
    path = ledger_path(tmp_path / "r")
    whole = path.read_bytes()
    ends = [i + 1 for i, b in enumerate(whole) if b == ord("\n")]
    for cut in range(len(whole) - 1024, len(whole)):
        path.write_bytes(whole[:cut])
        # A line that lacks nothing but its newline is a whole row.
        expected = rows[: sum(end - 1 <= cut for end in ends)]
        assert same(read_ledger(tmp_path / "r"), expected), cut
        if cut % 7 == 0:
            with Ledger.open(tmp_path / "r") as ledger:
                assert ledger.append("finish", status="finished")["seq"] == len(expected)
            again = read_ledger(tmp_path / "r")
            assert same(again[:-1], expected)
            assert again[-1]["kind"] == "finish"


@pytest.mark.parametrize("seed", range(4))
def test_read__a_flipped_bit_is_always_detected(tmp_path: Path, seed: int) -> None:
    """Every row read is a true one and in its place, or the ledger is refused and the row is named."""
    rows = small_run(tmp_path / "r")
    path = ledger_path(tmp_path / "r")
    whole = path.read_bytes()
    rng = np.random.default_rng(seed)
    for at, bit in zip(rng.integers(0, len(whole), 500), rng.integers(0, 8, 500), strict=True):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(bit)
        path.write_bytes(damaged)
        row = whole[:at].count(b"\n")
        with pytest.raises((LedgerCorrupt, LedgerVersion), match=rf"row {row}\b"):
            pytest.fail(f"byte {at} bit {bit}: read {ranks(read_ledger(tmp_path / 'r'))} {len(rows)}")


@pytest.mark.parametrize("act", [read_ledger, SweepState.load, Ledger.open])
def test_read__names_a_doubled_lost_or_swapped_row(tmp_path: Path, act) -> None:
    small_run(tmp_path / "r")
    path = ledger_path(tmp_path / "r")
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged, row in [
        (lines[:4] + lines[3:], 4),
        (lines[:4] + lines[5:], 4),
        ([*lines[:4], lines[5], lines[4], *lines[6:]], 4),
        (lines[1:], 0),
        (lines + lines[:1], len(lines)),
    ]:
        path.write_bytes(b"".join(damaged))
        with raises(LedgerCorrupt, "ledger.corrupt") as caught:
            act(tmp_path / "r")
        assert f"row {row} " in str(caught.value)


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION + 1])
def test_read__refuses_an_earlier_or_later_schema(tmp_path: Path, version: int) -> None:
    small_run(tmp_path / "r")
    path = ledger_path(tmp_path / "r")
    first, rest = path.read_bytes().split(b"\n", 1)
    header = decode_row(first) | {"schema_version": version}
    path.write_bytes(encode_row(header) + rest)
    with raises(LedgerVersion, "ledger.version") as caught:
        read_ledger(tmp_path / "r")
    assert f"row 0: ledger schema {version}" in str(caught.value)


def test_state__ignores_unknown_kinds(tmp_path: Path) -> None:
    rows = small_run(tmp_path / "r")
    with ledger_path(tmp_path / "r").open("ab") as f:
        f.write(
            encode_row({"seq": len(rows), "time": 1.0, "kind": "future", "trial_id": "t000", "who": "me"})
        )
    assert ranks(read_ledger(tmp_path / "r")) == ranks(rows)


def test_iter__may_leave_out_steps(tmp_path: Path) -> None:
    rows = small_run(tmp_path / "r")
    found = list(iter_ledger(tmp_path / "r", steps=False))
    assert same(found, [row for row in rows if row["kind"] != "steps"])
    assert same(list(iter_ledger(ledger_path(tmp_path / "r"), steps=False)), found)


def test_codec__checksum_is_the_documented_one(tmp_path: Path) -> None:
    small_run(tmp_path / "r")
    for line in ledger_path(tmp_path / "r").read_text().splitlines():
        body, crc = re.fullmatch(r'(.*),"crc":(\d+)}', line).groups()
        assert zlib.crc32((body + "}").encode()) == int(crc) == json.loads(line)["crc"]


# --- one process ----------------------------------------------------------------------------------


def test_ledger__cannot_be_pickled(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "r") as ledger, pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(ledger)


def child(code: str, *args: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)], stdout=subprocess.PIPE, text=True
    )


# --- the disk -------------------------------------------------------------------------------------


def test_append__full_disk_leaves_the_ledger_whole(tmp_path: Path) -> None:
    """A real limit on file size cuts a row in the middle; after more room the same writer goes on."""
    code = """
        import resource, sys
        from pathlib import Path
        from sweepft.errors import StorageError
        from sweepft.ledger import Ledger, read_ledger
        run = sys.argv[1]
        ledger = Ledger.open(run)
        size = Path(run, "ledger/ledger.jsonl").stat().st_size
        before = len(read_ledger(run))
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        try:
            ledger.append("finish", status="finished", reason="x" * 300)
        except StorageError as e:
            assert f"row {before}" in str(e), e
        else:
            raise SystemExit("no error")
        assert Path(run, "ledger/ledger.jsonl").stat().st_size == size
        assert len(read_ledger(run)) == before
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        ledger.append("finish", status="failed", reason="disk full")
        ledger.close()
        assert read_ledger(run)[-1]["seq"] == before
        print("fine")
        """
    small_run(tmp_path / "r")
    process = child(code, tmp_path / "r")
    assert process.communicate()[0] == "fine\n"


def test_append__no_row_is_accepted_after_a_failed_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync the content on disk is unknown: nothing more is written."""
    ledger = Ledger.create(tmp_path / "r")
    ledger.append("sweep", **HEADER)

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", failing)
        with raises(StorageError, "storage"):
            ledger.append("finish", status="finished")
    with raises(StorageError, "storage"):
        ledger.append("finish", status="finished")
    ledger.close()


def test_create__folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for run in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/nothing/run")):
        with raises(StorageError, "storage"):
            Ledger.create(run)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write a read-only folder")
def test_open__read_only_folder(tmp_path: Path) -> None:
    small_run(tmp_path / "r")
    ledger_path(tmp_path / "r").chmod(0o400)
    with pytest.raises(StorageError):
        Ledger.open(tmp_path / "r")


def test_open__continues_after_a_writer_killed_at_any_moment(tmp_path: Path) -> None:
    """Kill -9 in the middle of writing, again and again: what was synced is there, and nothing is torn."""
    small_run(tmp_path / "r")
    code = """
        import sys
        from sweepft.ledger import Ledger
        with Ledger.open(sys.argv[1]) as ledger:
            n = 0
            while True:
                if n % 5:
                    ledger.append("cost", trial_id="t000", slot=0, phase="train", seconds=n)
                else:
                    row = ledger.append("finish", status="finished", reason="x" * n)
                    print(row["seq"], flush=True)
                n += 1
        """
    known = 0
    for rows in (1, 3, 9, 20):
        writer = child(code, tmp_path / "r")
        for _ in range(rows):
            synced = int(writer.stdout.readline())
        writer.kill()
        writer.communicate()
        read = read_ledger(tmp_path / "r")
        assert [r["seq"] for r in read] == list(range(len(read)))
        assert len(read) > synced >= known
        known = synced


def test_read__restores_the_garbage_collector(tmp_path: Path) -> None:
    """It is off while rows are read, and on again after a reading that fails."""
    assert gc.isenabled()
    with pytest.raises(LedgerError):
        read_ledger(tmp_path)
    assert gc.isenabled()
    gc.disable()
    try:
        small_run(tmp_path)
        assert not gc.isenabled()
        read_ledger(tmp_path)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "..", ".hidden", "", "a\0b", "a" * 81, "/home/you/.ssh", 'x"""\n', 5]
)
@pytest.mark.parametrize("field", ["trial_id", "replicate_of", "name"])
def test_reading__refuses_names_that_are_not_plain(tmp_path: Path, name: Any, field: str) -> None:
    sweep = LedgerBuilder().trial("t000")
    row = sweep.rows[0] if field == "name" else sweep.rows[1]
    row[field] = name
    sweep.save(tmp_path)
    for read in (read_ledger, SweepState.load, lambda run: LedgerTail(run).read(), has_trials):
        with raises(LedgerCorrupt, f"ledger.{field}"):
            read(tmp_path)


def test_reading__follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    path = tmp_path / "ledger" / "ledger.jsonl"
    path.symlink_to("/dev/zero")
    for read in (read_ledger, SweepState.load, LedgerTail):
        with raises(UnsafePath, "run_dir.link"):
            read(tmp_path)
    path.unlink()
    os.mkfifo(path)
    for read in (read_ledger, SweepState.load, lambda run: LedgerTail(run).read()):
        with raises(LedgerError, "ledger.missing"):
            read(tmp_path)


def test_writing__follows_no_link(tmp_path: Path) -> None:
    """A lock or commands file that is a link would empty, or be added to, what it points to."""
    mine = tmp_path / "bashrc"
    mine.write_text("mine")
    for name in ("lock", "commands.jsonl", "ledger.jsonl"):
        run = tmp_path / name
        (run / "ledger").mkdir(parents=True)
        (run / "ledger" / name).symlink_to(mine)
        with contextlib.suppress(SweepftError):
            Ledger.create(run).close()
        with contextlib.suppress(SweepftError):
            send_command(run, Command.new("stop"))
        assert mine.read_text() == "mine"
