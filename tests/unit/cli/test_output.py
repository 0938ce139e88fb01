"""Output that cannot be written: commands that print end as Unix tools do, a sweep's console never raises."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from support.terminals import sweepft
from sweepft.errors import OutputError
from sweepft.output import dropping_stream, end_on_failure, sweep_console


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rün")
    sweep = LedgerBuilder(folder, budget_samples=100)
    sweep.completed("t0", 1.5).completed("t1", 1.7).finish()
    sweep.ledger.close()
    return folder


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(
    ("words", "where", "code", "shown"),
    [
        (["status"], "pipe", 141, ""),
        pytest.param(["report"], "pipe", 141, "", marks=pytest.mark.full),
        (["status", "--json"], "full", 1, "standard output cannot be written: No space left on device"),
        pytest.param(["report"], "full", 1, "No space left on device", marks=pytest.mark.full),
        (["status"], "closed", 0, ""),
        (["status"], "ascii", 0, ""),
        pytest.param(["report"], "ascii", 0, "", marks=pytest.mark.full),
        pytest.param(["--help"], "pipe", 141, "", marks=pytest.mark.full),
        pytest.param(["watch"], "pipe", 141, "", marks=pytest.mark.full),
        pytest.param(["schema"], "pipe", 141, "", marks=pytest.mark.full),
    ],
)
def test_commands__output_that_cannot_be_written(
    run: Path, words: list[str], where: str, code: int, shown: str
) -> None:
    descriptor = {"pipe": closed_pipe, "full": lambda: os.open("/dev/full", os.O_WRONLY)}.get(where)
    target = descriptor() if descriptor else subprocess.PIPE
    arguments = words if words[0] in ("--help", "schema") else [words[0], run, *words[1:]]
    process = sweepft(
        *arguments,
        stdout=None if where == "closed" else target,
        stderr=subprocess.PIPE,
        env=os.environ | ({"PYTHONIOENCODING": "ascii"} if where == "ascii" else {}),
        preexec_fn=(lambda: os.close(1)) if where == "closed" else None,
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors.decode()
    assert shown in errors.decode()
    assert (shown != "") == (errors != b"")


def test_command__a_closed_standard_error_is_not_the_next_file_that_is_opened(run: Path) -> None:
    def close() -> None:
        for descriptor in range(3):
            os.close(descriptor)

    before = (run / "ledger" / "ledger.jsonl").read_bytes()
    assert sweepft("report", run, preexec_fn=close).wait(120) == 0
    assert (run / "report.md").is_file()
    assert (run / "ledger" / "ledger.jsonl").read_bytes() == before


def test_dropping_stream__ends_only_where_the_command_depends_on_its_output() -> None:
    end_on_failure(False)  # a command that ran in this process before may have asked for the other
    stream = dropping_stream(closed_pipe(), "ascii", may_end=True)
    print("dropped: \u2026", file=stream)
    end_on_failure(True)
    try:
        with raises(OutputError, "output") as caught:
            print("ends", file=stream)
        assert (caught.value.closed, caught.value.exit_code) == (True, 141)
        print("once", file=stream)
    finally:
        end_on_failure(False)


def test_dropping_stream__writes_what_the_encoding_lacks_as_an_escape(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        print("a\u2026\udc80b", file=dropping_stream(file.fileno(), "ascii"))
    assert (tmp_path / "out").read_bytes() == b"a\\u2026\\udc80b\n"


def test_dropping_stream__a_full_non_blocking_pipe_loses_nothing() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    text = "x" * (1 << 18)
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; time.sleep(0.5); print(len(sys.stdin.read()))"],
        stdin=reading, stdout=subprocess.PIPE,
    )  # fmt: skip
    os.close(reading)
    dropping_stream(writing).write(text)
    os.close(writing)
    assert reader.communicate(timeout=60)[0].strip() == b"262144"


class _Broken(io.StringIO):
    encoding = "ascii"  # type: ignore[assignment]

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("file", [_Broken(), io.StringIO()], ids=["terminal gone", "closed file"])
def test_sweep_console__never_raises(file: io.StringIO) -> None:
    console = sweep_console(Console(file=file))
    if not isinstance(file, _Broken):
        file.close()
    console.print("text")
    console.file.write("text")
    console.file.flush()
