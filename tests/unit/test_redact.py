"""Secrets are removed from text, and similar-looking text is kept."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweepft.ledger import Ledger, ledger_path
from sweepft.redact import REDACTED, RedactingFormatter, looks_secret, redact, redact_files

TOKEN = "hf_" + "Q7xPplantedplanted9Zk"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"--set a={TOKEN} --out x", f"--set a={REDACTED} --out x"),
        ("key sk-" + "proj-abcdefgh12345678 used", f"key {REDACTED} used"),
        ("ghp_" + "a" * 36, REDACTED),
        ("AKIA" + "A1B2C3D4E5F6G7H8", REDACTED),
        ("https://ada:pass@host/org/x", f"https://{REDACTED}@host/org/x"),
        ("GET https://bare-token@host/api failed", f"GET https://{REDACTED}@host/api failed"),
        ("Authorization: Bearer abcdefghijkl.mnop", f"Authorization: Bearer {REDACTED}"),
        ("WANDB_API_KEY=0123456789abcdef rest", f"WANDB_API_KEY={REDACTED} rest"),
        ("?api_key=abc&x=1", f"?api_key={REDACTED}&x=1"),
        ("password = hunter2, then", f"password = {REDACTED}, then"),
    ],
)
def test_redact__removes_secrets(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "", "max_tokens=4096 tokens_seen=3", "sk-learn", "hf_hub", "learning_rate=2e-05", "https://host/a@b",
        "path/to/token.json", "scheduler=asha p_top=0.03", "git@host:org/repo",
    ],
)  # fmt: skip
def test_redact__keeps_what_is_no_secret(text: str) -> None:
    assert redact(text) == text
    assert not looks_secret(text)


def test_redact__removes_values_of_secret_variables() -> None:
    code = """
    from sweepft.redact import redact
    print(redact("a plain-value-1 b longer-plain-value-1-too c /etc/some/file d shrt e public-value"))
    """
    environment = os.environ | {
        "JUDGE_API_KEY": "plain-value-1", "MY_SECRET": "longer-plain-value-1-too",
        "GOOGLE_CREDENTIALS": "/etc/some/file", "X_TOKEN": "shrt", "TOKENIZERS": "public-value",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"a {REDACTED} b {REDACTED} c /etc/some/file d shrt e public-value"


def test_formatter__redacts_log_lines_and_tracebacks() -> None:
    try:
        raise ValueError(f"401 for {TOKEN}")
    except ValueError:
        record = logging.LogRecord("x", 40, "f", 1, "with %s", (TOKEN,), sys.exc_info())
    line = RedactingFormatter().format(record)
    assert TOKEN not in line
    assert "401 for" in line


def test_ledger__rows_hold_no_secret(tmp_path: Path) -> None:
    header = {
        "name": "s",
        "spec": {},
        "spec_digest": "d",
        "seed": 0,
        "budget_samples": 1,
        "sweepft_version": "0",
    }
    with Ledger.create(tmp_path) as ledger:
        ledger.append("sweep", **header, command=f"sweepft run --set x={TOKEN}")
        ledger.append("finish", status="failed", reason=f"could not log in with {TOKEN}")
    assert TOKEN.encode() not in ledger_path(tmp_path).read_bytes()


def test_redact_files__cleans_in_place_and_leaves_clean_files_alone(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(f"first\nusing {TOKEN}\nlast\n")
    (tmp_path / "b.log").write_bytes(b"\xff nothing\n")
    before = (tmp_path / "b.log").stat().st_mtime_ns
    (tmp_path / "c.log").symlink_to(tmp_path / "nowhere")
    redact_files(tmp_path)
    assert (tmp_path / "a.log").read_text() == f"first\nusing {REDACTED}\nlast\n"
    assert (tmp_path / "b.log").stat().st_mtime_ns == before
