"""A message when a sweep ends: to a command, or to a web address by POST.

The message is sent by a child process under a deadline, after ledger and report are written. Whatever goes wrong is a
warning. The address of a webhook is a secret: it is kept in the environment, and passed on by standard input.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sweepft.bounded_json import read_json
from sweepft.children import run_module
from sweepft.errors import LeaseLost
from sweepft.interrupts import Interrupted
from sweepft.ledger import SweepState, winner
from sweepft.redact import redact
from sweepft.spec import Notify, SweepSpec

if TYPE_CHECKING:
    from sweepft.driver.sweep import SweepResult

_log = logging.getLogger(__name__)

VARIABLE: Final = "SWEEPFT_WEBHOOK"
"""Takes an address that a spec holds itself. Its name makes it a secret to ``sweepft.redact``."""
_SECONDS: Final = 20.0
"""Deadline of each message, and of the command."""


def with_secret_apart(spec: SweepSpec, warn: Callable[[str], None] | None = None) -> SweepSpec:
    """The spec with a reference in place of a webhook's address; the address goes into the environment.

    Everything that is written later holds the reference. Warns if a variable that the spec refers to is not set.
    """
    webhook = spec.notify.webhook if spec.notify is not None else None
    if spec.notify is None or webhook is None:
        return spec
    if not webhook.startswith("$"):
        os.environ[VARIABLE] = webhook
        changed = spec.notify.model_copy(update={"webhook": f"${VARIABLE}"})
        return spec.model_copy(update={"notify": changed})
    address = os.environ.get(_name(webhook), "")
    if address:
        os.environ[VARIABLE] = address  # redacted from now on, whatever the other one is called
    elif warn is not None:
        warn(
            f"notify: {_name(webhook)} is not set in the environment: no message will be sent to the webhook"
        )
    return spec


@contextlib.contextmanager
def notified(
    spec: SweepSpec, run_dir: Path, state: SweepState, warn: Callable[[str], None]
) -> Iterator[list[SweepResult]]:
    """Send the message of ``notify`` when the block ends, by its result or by an exception. Never raises itself.

    Yields:
        A list that takes the result.
    """
    results: list[SweepResult] = []
    status, reason = "failed", None
    try:
        yield results
        if results:
            status, reason = results[0].status, results[0].fault
            if results[0].interrupted:
                status = "interrupted"
    except BaseException as error:
        taken_over = isinstance(error, LeaseLost)  # the sweep goes on with another driver
        status = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        reason = redact(str(error).partition("\n")[0])
        if not taken_over:
            _send(spec.notify, message(spec, run_dir, state, status, reason), warn)
        raise
    _send(spec.notify, message(spec, run_dir, state, status, reason), warn)


def message(
    spec: SweepSpec, run_dir: Path, state: SweepState, status: str, reason: str | None
) -> dict[str, Any]:
    """What is sent: ``text`` (one line), and the same as fields."""
    counts: dict[str, int] = {}
    for trial in state.trials.values():
        counts[trial.status] = counts.get(trial.status, 0) + 1
    best = winner(state)
    words = [f"sweep {spec.name}: {status}"]
    if reason:
        words.append(reason)
    words.append(", ".join(f"{n} {what}" for what, n in counts.items()) or "no trial")
    if best is not None and best.objective is not None:
        words.append(f"best {best.trial_id} with {best.objective:.4f}")
    host = socket.gethostname()
    text = f"{'; '.join(words)}; {run_dir} on {host}"
    return {
        "text": text,
        "content": text,
        "name": spec.name,
        "status": status,
        "reason": reason,
        "run": str(run_dir),
        "host": host,
        "trials": counts,
        "winner": None
        if best is None
        else {"trial_id": best.trial_id, "objective": best.objective, "params": dict(best.params)},
    }


def _send(notify: Notify | None, content: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    if notify is None:
        return
    webhook = None if notify.webhook is None else os.environ.get(_name(notify.webhook))
    jobs = {"webhook": webhook, "command": notify.command}
    for what, to in jobs.items():
        if not to:
            continue
        try:
            done = run_module(__name__, job={"kind": what, "to": to, "message": content}, timeout=_SECONDS)
            failure = None if done.returncode == 0 else done.tail or f"exit status {done.returncode}"
        except subprocess.TimeoutExpired:
            failure = f"no answer in {_SECONDS:g} s"
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        if failure is not None:
            failure = redact(failure)
            _log.warning("notify failed: %s: %s", what, failure)
            with contextlib.suppress(Exception):
                warn(f"notify: the {what} failed: {failure}")


def _name(reference: str) -> str:
    """The variable in ``$NAME`` or ``${NAME}``."""
    return reference.removeprefix("$").removeprefix("{").removesuffix("}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the message goes where it was meant to go."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _post(address: str, content: Mapping[str, Any]) -> None:
    body = json.dumps(content, default=str).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "sweepft"}
    request = urllib.request.Request(address, body, headers, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        _fail(
            f"it answered {error.code} {HTTPStatus(error.code).phrase if error.code in set(HTTPStatus) else ''}"
        )
    except (OSError, ValueError) as error:
        _fail(f"it cannot be reached: {getattr(error, 'reason', None) or type(error).__name__}")


def _run(command: str | list[str], content: Mapping[str, Any]) -> None:
    """Run the user's command with the message as JSON on standard input, and its parts in the environment."""
    parts = {
        f"SWEEPFT_{key.upper()}": str(content[key] or "")
        for key in ("name", "status", "reason", "run", "text")
    }
    given = json.dumps(content, default=str)
    try:
        done = subprocess.run(
            command,
            shell=isinstance(command, str),
            input=given,
            text=True,
            env={**os.environ, **parts},
            check=False,
        )
    except (OSError, ValueError) as error:
        _fail(f"it cannot be started: {error}")
    if done.returncode:
        _fail(f"exit status {done.returncode}")


def _fail(why: str) -> NoReturn:
    sys.stderr.write(f"{why.strip()}\n")
    sys.exit(1)


def main() -> None:
    """Send one message, given as a job on standard input."""
    job = read_json(sys.stdin.read())
    (_post if job["kind"] == "webhook" else _run)(job["to"], job["message"])


if __name__ == "__main__":
    main()
