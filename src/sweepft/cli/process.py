"""The process of a command: errors, signals and lost output become a message and an exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

import click

from sweepft.cli.main import SWEEPS, cli
from sweepft.cli.results import error_result
from sweepft.errors import ClusterError, CommandError, JobError, OutputError, ProblemsError, SweepftError
from sweepft.files import atomic_write
from sweepft.interrupts import Interrupted, ignore_signals, signals_raise
from sweepft.output import end_on_failure, guard_output, say
from sweepft.redact import redact, redact_within
from sweepft.visible import one_line


def main() -> None:
    """Entry point: turns errors and signals into a message and an exit code."""
    is_process = guard_output()
    end_on_failure(True)
    with contextlib.ExitStack() as handling:
        handling.enter_context(signals_raise())
        code = _exit_code()
        if is_process:
            ignore_signals()
            handling.pop_all()
    if code:
        sys.exit(code)


def _exit_code() -> int | str | None:
    try:
        code = _run()
        sys.stdout.flush()
        return code
    except OutputError as error:
        if not error.closed:
            say(f"error: {error}", err=True)
        return error.exit_code
    finally:
        end_on_failure(False)


def _run() -> int | str | None:
    """Run the command. Returns its exit code; raises OutputError if it depends on output that cannot be written."""
    try:
        left = cli.main(prog_name="sweepft", standalone_mode=False)
        return left if isinstance(left, int) else 0
    except SystemExit as leaving:
        return leaving.code
    except OutputError:
        raise
    except SweepftError as error:
        return _refused(error)
    except click.exceptions.Abort as error:
        return _interrupted(error.__cause__)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(redact(shown.getvalue()).rstrip(), err=True)
        return error.exit_code
    except (KeyboardInterrupt, Interrupted):
        raise
    except OSError as error:
        return _unexpected(error) if error.filename is None else _refused(_of_path(error))
    except Exception as error:
        return _unexpected(error)


def _refused(error: SweepftError) -> int:
    if "--json" in sys.argv[1:]:
        say(json.dumps(redact_within(error_result(error)), indent=2))
    say(redact(_message(error)), err=True)
    return error.exit_code


def _of_path(error: OSError) -> SweepftError:
    """The error of a path that the system refuses: too long, no folder, not permitted."""
    reason, path = error.strerror or str(error), os.fsdecode(error.filename)
    found = SweepftError(
        f"{path}: {reason}\n  check the path, and the permissions of the folders on it", key="path"
    )
    found.exit_code = 2
    return found


def _unexpected(error: Exception) -> int:
    """Report an error that no part of sweepft expects: a fault of its own, or a file that somebody has forged."""
    text = redact("".join(traceback.format_exception(error)))
    where = Path(tempfile.gettempdir())
    try:
        folder = Path(tempfile.mkdtemp(prefix="sweepft-error-"))
        where = folder / "traceback.txt"
        atomic_write(where, text)
        remedy = f"the traceback is in {where}"
    except OSError:
        remedy = text
    last = redact(f"{type(error).__name__}: {error}"[:300])
    say(
        f"error: unexpected {one_line(last)}\n"
        f"  this is a fault of sweepft, or a file that sweepft did not write; {remedy}",
        err=True,
    )
    return 70


def _interrupted(cause: BaseException | None) -> int:
    """The exit code of a command that a signal has ended.

    That of a sweep is the same for every signal: it can be resumed.
    """
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command in SWEEPS or not isinstance(cause, Interrupted):
        return 130
    return 128 + cause.number


def _message(error: SweepftError) -> str:
    if isinstance(error, ClusterError | CommandError | JobError):
        return str(error)
    if isinstance(error, ProblemsError):
        count = len(error.problems)
        return f"{error}\n{count} problem{'s' if count != 1 else ''}; nothing was started"
    return f"error: {error}"
