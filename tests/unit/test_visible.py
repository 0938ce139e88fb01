"""Texts of others on the terminal, in CSV and in Markdown: shown, never obeyed."""

from __future__ import annotations

import ast
import csv
import io
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from rich.table import Table

import sweepft
from sweepft.cli.main import cli
from sweepft.output import make_console
from sweepft.report.format import csv_cell, markdown
from sweepft.visible import code, one_line, visible

HOSTILE = "a\x1b]0;P\x07\x9b31m\u202eb\u2066\r\n=c|' /C calc'!A0 [link=https://x]L[/link] <img src=x> `y` | [z](u) *w*\x7f\x00\ud800"


def test_visible__escapes_what_terminals_obey() -> None:
    assert visible("tab\tnew\nline é 日本 😀") == "tab\tnew\nline é 日本 😀"
    shown = visible(HOSTILE)
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert "\\x1b]0;P\\x07\\x9b31m\\u202eb" in shown
    assert "\n" not in one_line(HOSTILE)
    assert "`" not in code(HOSTILE)


def test_console__has_no_markup_and_no_escapes_of_others() -> None:
    out = io.StringIO()
    console = make_console(file=out, force_terminal=True, width=300)
    table = Table()
    table.add_column(HOSTILE.replace("\ud800", ""))
    table.add_row(HOSTILE.replace("\ud800", ""))
    console.print(table)
    console.print(HOSTILE.replace("\ud800", ""), style="bold")
    text = out.getvalue()
    assert "]8;" not in text, "no link"
    assert "[link=https://x]L[/link]" in text
    assert "\x1b]" not in text
    assert "\x07" not in text
    assert "\x1b[1m" in text, "styles of our own stay"


@pytest.mark.parametrize(
    "text", ["=1", "+1", "-x", "@x", "\t=1", "\r=1", " =1", "\n=1", "＝1", "＋1", "－1", "＠1", "\u202e=1"]
)
def test_csv_cell__is_no_formula(text: str) -> None:
    assert csv_cell(text).startswith("'")


def test_csv_cell__stays_one_cell() -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([csv_cell(HOSTILE), csv_cell("x\r=cmd|' /C calc'!A0")])
    assert len(list(csv.reader(io.StringIO(out.getvalue())))) == 1
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_markdown__is_literal() -> None:
    shown = markdown(HOSTILE)
    assert not {"<", "`y`", "\x1b", "\n", "*w*"} & {
        part
        for part in ("<", "`y`", "\x1b", "\n", "*w*")
        if part in shown.replace("\\`", "").replace("\\*", "")
    }


def test_validate__shows_an_unknown_key_with_escapes(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump({"k\x1b]0;P\x07": 1}))
    done = CliRunner().invoke(cli, ["validate", str(file)])
    assert done.exit_code != 0
    assert "\x1b" not in done.output


def test_output__has_one_exit() -> None:
    """No other module prints, or makes a console, for people."""
    package = Path(sweepft.__file__).parent
    strange = []
    for path in (*package.glob("cli/*.py"), *package.glob("driver/*.py"), *package.glob("report/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("click.echo", "click.secho", "Console", "print"):
                    strange.append(f"{path.name}:{node.lineno}: {name}")
    ours = [s for s in strange if s.startswith(("cluster_address.py", "wait_for_nodes.py"))]  # for programs
    assert sorted(strange) == sorted(ours)
