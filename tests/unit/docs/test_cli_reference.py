"""The page of the command line names every command and option, with its help."""

from __future__ import annotations

import click

from sweepft.cli.main import cli
from sweepft.cli.reference import commands, reference


def test_reference__has_a_section_for_every_command() -> None:
    page = reference()
    assert set(cli.commands) == set(commands())
    for name in commands():
        assert f"\n## {name}\n" in page
        assert f"[`{name}`](#{name})" in page


def test_reference__names_every_option() -> None:
    page = reference()
    for name, command in commands().items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.help and not parameter.hidden:
                assert parameter.opts[-1] in section, (name, parameter.name)


def test_reference__usage_names_the_arguments() -> None:
    assert "sweepft stop [OPTIONS] RUN [TRIAL]" in reference()
