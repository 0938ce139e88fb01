"""Tiny models of many families train as a plain loop does, and what is exported loads elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.families.recipes import RECIPES

ROOT = Path(__file__).parents[3]
QUICK = [one.name for one in RECIPES if one.quick]
OTHERS = [one.name for one in RECIPES if not one.quick]


def outcomes(names, folder):
    """What the benchmark finds of these families, in a process of its own."""
    file = folder / "families.json"
    command = [sys.executable, "-m", "benchmarks.families", *names, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert file.is_file(), done.stdout + done.stderr
    return {one["family"]: one for one in json.loads(file.read_text())["families"]}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return outcomes(QUICK, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return outcomes(OTHERS, tmp_path_factory.mktemp("others"))


def check(found):
    assert found["failures"] == []
    assert set(found["full"]) == set(found["lora"]) == {"1", "4", "tokens"}
    assert found["end_of_turn"] == {"full": True, "lora": True}


@pytest.mark.parametrize("name", QUICK)
def test_family__trains_exports_and_reloads(quick, name):
    check(quick[name])


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", OTHERS)
def test_family__trains_exports_and_reloads_all(others, name):
    check(others[name])


def test_models_page__has_every_family():
    page = (ROOT / "docs" / "reference" / "models.md").read_text()
    assert [one.name for one in RECIPES if f"| {one.name} |" not in page] == []
    assert "fails" not in page
