"""What pages show is true: links lead somewhere, YAML fits the schema, commands exist, Python runs, paths are there."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from support.specs import spec_dict
from sweepft.cli.reference import commands, reference
from sweepft.spec import load
from sweepft.spec.reference import json_schema
from sweepft.spec.yaml_source import read

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
        *DOCS.rglob("*.md"),
        ROOT / "benchmarks/simulation/README.md",
    ]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FORBIDDEN = r"winding|sit_out|stretch\b|\btold\b|\blest\b|\banew\b|whose weights|say how|goes on on"
"""Words that the glossary's terms have replaced."""


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language; an empty one stands for blocks without."""
    text = re.sub(
        r"<!-- not run as a test.*?-->\n```.*?\n```", "", page.read_text(encoding="utf-8"), flags=re.S
    )
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def command_lines(page: Path) -> list[str]:
    """What a page tells people to type: lines of blocks, and inline code, that begin with the command."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    lines += re.findall(r"`(sweepft [^`]+)`", page.read_text(encoding="utf-8").replace("\n", " "))
    found = [line.removeprefix("$ ").partition("  #")[0].partition(" # ")[0].strip() for line in lines]
    return [line for line in found if line.startswith("sweepft ")]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_page__relative_links_and_images_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_page__yaml_fits_the_schema(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        (tmp_path / "shown.yaml").write_text(block)
        shown: dict[str, Any] = read(tmp_path / "shown.yaml", "shown.yaml").data
        whole: dict[str, Any] = spec_dict()
        for section, values in shown.items():
            known = whole.get(section)
            whole[section] = known | values if isinstance(known, dict) else values
        jsonschema.validate(whole, json_schema())


@pytest.mark.parametrize("name", ["README.md", "docs/tutorials/first-sweep.md", "docs/reference/spec.md"])
def test_page__complete_specs_are_valid(name: str, tmp_path: Path) -> None:
    shown = [block for block in blocks(ROOT / name, "yaml") if "name: my-sweep" in block]
    assert shown
    for block in shown:
        (tmp_path / "shown.yaml").write_text(block)
        load(tmp_path / "shown.yaml", check_files=False)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_page__commands_and_options_exist(page: Path) -> None:
    known = commands()
    for line in command_lines(page):
        _, name, *words = shlex.split(line.replace("'evaluate={tasks: [gsm8k]}'", "X"))
        if name.startswith("-"):
            assert name in ("--version", "--help"), line
            continue
        assert name in known, line
        options = {o for p in known[name].params if isinstance(p, click.Option) for o in p.opts}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in options | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_page__python_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_page__uses_the_terms_of_the_glossary(page: Path) -> None:
    assert not re.findall(FORBIDDEN, page.read_text(encoding="utf-8"), re.I)


def test_scheduler_tutorial__runs_without_a_session() -> None:
    space: dict[str, Any] = {}
    first, second, *_ = blocks(DOCS / "tutorials/scheduler-in-ray-tune.md", "python")
    exec(compile(first + second, "tutorial", "exec"), space)
    assert space["scheduler"].set_search_properties("eval_loss", "min")
    assert space["scheduler"].summary()["audits"]["audited"] == 0


def test_cli_page__is_what_the_commands_say() -> None:
    """`make reference` writes it."""
    assert (DOCS / "reference/cli.md").read_text(encoding="utf-8") == reference()


def test_architecture__every_path_exists() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:src|tests|benchmarks|docs|sweeps)/[\w./-]+)`", text))
    named |= {f"src/sweepft/{path}" for path in re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text)}
    assert len(named) >= 15
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]


def test_pictures__show_the_layers_of_the_import_contract() -> None:
    """`make reference` draws them."""
    draw = runpy.run_path(str(DOCS / "images/draw.py"))
    assert (DOCS / "images/packages.svg").read_text(encoding="utf-8") == draw["packages"]()
    assert (DOCS / "images/trial.svg").read_text(encoding="utf-8") == draw["way"]()
    assert all(names[0] in draw["NOTES"] for names in draw["layers"]())


def test_glossary__has_one_line_a_term_in_order() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (DOCS / "glossary.md").read_text("utf-8"), re.M)[2:]
    terms = [term.strip("`").lower() for term, _ in rows]
    assert len(terms) > 60
    assert terms == sorted(set(terms))
