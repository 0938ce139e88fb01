"""``sweepft data``: what the rows of a spec become."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sweepft.cli.options import JSON, SET, SPEC, output_file, writing
from sweepft.extras import require_run
from sweepft.files import write_output
from sweepft.output import make_console, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_BAR: Final = 40
_PAGE_ROWS: Final = 30


@click.command()
@SPEC
@SET
@click.option(
    "--row",
    "rows",
    multiple=True,
    metavar="N",
    help="Show training row N, or the row at a place such as rows.jsonl:17; may be repeated.",
)
@click.option("--all", "every", is_flag=True, help="Tokenise all rows, not a sample of 2,048 of each set.")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path),
    callback=output_file,
    help="Write the same to this file as a page, with 30 rows.",
)
@JSON
def data(
    spec: Path,
    overrides: tuple[str, ...],
    rows: tuple[str, ...],
    every: bool,
    page: Path | None,
    as_json: bool,
) -> None:
    """Show what the rows of SPEC become, and which tokens are learned."""

    from sweepft.data import view_in_child
    from sweepft.spec import load

    require_run("sweepft data")
    loaded = load(spec, overrides)
    found = view_in_child(loaded, rows=rows, first=_PAGE_ROWS if page else 1, every=every)
    if page is not None:
        with writing(page):
            write_output(page, _render(loaded.name, found))
        say(page)
    elif as_json:
        say(json.dumps(found, indent=2))
    else:
        console = make_console()
        for line in _lines(found, console):
            console.print(line, soft_wrap=True)


def _render(name: str, found: Mapping[str, Any]) -> str:
    from jinja2 import Environment

    template = files("sweepft.cli").joinpath("data.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return page.render(name=name, **found)


def _lines(found: Mapping[str, Any], console: Console) -> Iterator[str | Text]:
    for source in found["sources"]:
        formats = ", ".join(f"{name} {n:,}" for name, n in source["formats"].items())
        read = f" ({formats})" if formats else ""
        yield (
            f"{source['kind']} {source['name']}: {source['path']}: {source['used']:,} of {source['rows']:,} rows "
            f"used{read}, {source['duplicates']:,} duplicates"
        )
    for note in found["notes"]:
        yield f"  {note}"
    for warning in found["warnings"]:
        yield f"  warning: {warning}"
    for one in found["sets"]:
        yield ""
        yield from _set_lines(one)
    for row in found["rows"]:
        yield ""
        yield from _row_lines(row, console)


def _set_lines(one: Mapping[str, Any]) -> Iterator[str]:
    sampled = "" if one["tokenised"] == one["rows"] else f", {one['tokenised']:,} of them tokenised"
    yield f"{one['name']}: {one['rows']:,} rows{sampled}, {one['kept']:,} kept, {one['duplicates']:,} duplicates"
    if set(one["domains"]) != {""}:
        yield "  domains: " + ", ".join(f"{name or '(none)'} {n:,}" for name, n in one["domains"].items())
    for what in ("tokens", "targets"):
        if (sizes := one[what]) is not None:
            words = "tokens a row" if what == "tokens" else "learned tokens a row"
            yield f"  {words}: " + ", ".join(f"{name} {value:,}" for name, value in sizes.items())
    most = max((part["rows"] for part in one["histogram"]), default=0)
    for part in one["histogram"]:
        bar = "#" * -(-part["rows"] * _BAR // most)
        yield f"  {part['from']:>7,} to {part['to']:>7,} {part['rows']:>8,} {bar}".rstrip()
    for what in one["outcomes"].values():
        left = " and are left out" if what["left_out"] else ""
        yield f"  {what['rows']:,} {what['meaning']}{left}, e.g. {what['example']}"


def _row_lines(row: Mapping[str, Any], console: Console) -> Iterator[str | Text]:
    from rich.text import Text

    size = "left out" if row["tokens"] is None else f"{row['tokens']:,} tokens, {row['targets']:,} learned"
    domain = f", domain {row['domain']}" if row["domain"] else ""
    yield f"row {row['number']:,} of {row['set']} ({row['where']}{domain}): {size}"
    for name, example in row["outcomes"].items():
        yield f"  {name}: {example}"
    text = Text()
    for part in row["parts"]:
        if part["learned"]:
            text.append(part["text"] if console.is_terminal else f"{{+{part['text']}+}}", "bold green")
            if part["weight"] != 1.0:
                text.append(f"(weight {part['weight']:g})", "green")
        else:
            text.append(part["text"], "dim")
    yield text
