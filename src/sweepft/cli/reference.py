"""The page of the command line, written from the click commands themselves.

``python -m sweepft.cli.reference docs/reference/cli.md`` writes it; a test compares the page with the commands.
"""

from __future__ import annotations

import re
import sys

import click

from sweepft.cli.main import cli
from sweepft.files import write_output

_HEAD = """\
# Command line

<!-- made by `python -m sweepft.cli.reference docs/reference/cli.md`, do not edit -->

Every command answers to `-h` and `--help`. `RUN` is a run folder, `SPEC` a [YAML file](spec.md).
"""


def commands() -> dict[str, click.Command]:
    """All commands by name, in alphabetical order."""
    return dict(sorted(cli.commands.items()))


def reference() -> str:
    """Markdown: a table of all commands, then a section for each with usage, help and options."""
    rows = [f"| [`{name}`](#{name}) | {_cell(_first_line(c))} |" for name, c in commands().items()]
    parts = [_HEAD, "\n".join(["| command | what it does |", "| --- | --- |", *rows])]
    parts += [_section(name, command) for name, command in commands().items()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"sweepft {name}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {name}", f"```text\n{usage}\n```", _paragraphs(command.help or "")]
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and "--help" not in record[0]:
            rows.append(f"| `{record[0]}` | {_cell(record[1])} |")
    if rows:
        parts.append("\n".join(["| option | meaning |", "| --- | --- |", *rows]))
    return "\n\n".join(part for part in parts if part)


def _first_line(command: click.Command) -> str:
    return _paragraphs(command.help or "").split("\n\n")[0]


def _paragraphs(text: str) -> str:
    """Help as Markdown: lines of a paragraph are joined, paragraphs that click must not wrap become code."""
    out = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if lines and lines[0].strip() == "\b":
            out.append("\n".join(["```text", *(line.rstrip() for line in lines[1:]), "```"]))
        else:
            out.append(" ".join(line.strip() for line in lines))
    return "\n\n".join(out)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m sweepft.cli.reference PAGE")
    write_output(sys.argv[1], reference())
