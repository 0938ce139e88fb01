"""``sweepft validate``: exit code 2 with all problems, without importing Ray or torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_spec_loader import TABLE, broken

_RUN = """
import sys
sys.argv = ["sweepft", *{arguments!r}]
from sweepft.cli import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
heavy = ["ray", "torch", "transformers", "datasets", "deepspeed", "optuna", "pandas", "plotly"]
print("LOADED", sorted(set(heavy) & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def sweepft(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = _RUN.format(arguments=[str(a) for a in arguments])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "name"), [*(("validate", name) for name in sorted(TABLE)), ("run", "wrong_key")]
)
def test_validate__broken_spec_exits_2_without_ray(name: str, command: str, place: Path) -> None:
    line, key, value, hint = TABLE[name]
    spec = broken(name, place)
    done = sweepft(command, spec)
    assert done.returncode == 2
    assert f"{spec}:{line}: {key}: " in done.stderr
    assert value in done.stderr
    assert hint in done.stderr
    assert "1 problem; nothing was started" in done.stderr
    assert "LOADED []" in done.stderr


def test_validate__valid_spec_reads_the_rows(place: Path, tiny_model_dir: Path) -> None:
    for name in ("train", "validation", "test"):
        (place / f"{name}.jsonl").write_text("".join(f'{{"text": "{name} row {i}"}}\n' for i in range(30)))
    good = sweepft("validate", place / "valid.yaml", "--set", f"model.path={tiny_model_dir}")
    assert good.returncode == 0, good.stderr
    assert "LOADED []" in good.stderr
    assert "rows used" in good.stdout
    assert good.stdout.endswith("valid.yaml: ok\n")


@pytest.mark.full
@pytest.mark.parametrize(
    ("budget", "patience", "key"),
    [
        ("samples: 30", "null", None),
        ("samples: 30", "1", "early_stop.patience"),
        ("samples: 16", "null", "objective.at"),
    ],
)
def test_validate__counts_evaluations_where_rows_are_known(
    place: Path, tiny_model_dir: Path, budget: str, patience: str, key: str | None
) -> None:
    """At batch sizes of 8 and 16, a trial of 30 samples is evaluated at 50% and at its end; one of 16 at its end only."""
    for name in ("train", "validation", "test"):
        (place / f"{name}.jsonl").write_text("".join(f'{{"text": "{name} row {i}"}}\n' for i in range(30)))
    sets = ["objective.at=best", "early_stop.rungs=[0.5]", f"early_stop.patience={patience}",
            f"train.budget={{{budget}}}", f"model.path={tiny_model_dir}"]  # fmt: skip
    done = sweepft("validate", place / "valid.yaml", *(f"--set={one}" for one in sets))
    assert (done.returncode == 2) == (key is not None), done.stderr
    assert key is None or f"{key}: " in done.stderr
    assert "LOADED []" in done.stderr


def test_cli__help_and_schema_load_nothing_heavy() -> None:
    shown = sweepft("--help")
    assert shown.returncode == 0
    assert "LOADED []" in shown.stderr
    for command in ("run", "validate", "resume", "status", "report", "replay", "demo", "schema", "presets"):
        assert f"\n  {command} " in shown.stdout
    schema = sweepft("schema")
    assert json.loads(schema.stdout)["title"] == "sweepft sweep"
    assert "LOADED []" in schema.stderr
