"""``sweepft presets``: published configurations, and which of them a sweep can start with."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweepft.cli.options import JSON, SET
from sweepft.output import say

if TYPE_CHECKING:
    from sweepft.spec import Preset


@click.command()
@click.option(
    "--for",
    "spec",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="SPEC",
    help="Show which presets SPEC can start with, and the rule of thumb for its learning rate.",
)
@SET
@JSON
def presets(spec: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """List the presets for search.start_with."""
    from sweepft.spec import PRESETS, format_value

    found: dict[str, Any] = {"presets": [_plain(preset) for preset in PRESETS.values()]}
    if spec is not None:
        found |= _for(spec, overrides)
    if as_json:
        say(json.dumps(found, indent=2))
        return
    for preset in PRESETS.values():
        say(f"{preset.name}: {preset.about}")
        say(f"  {', '.join(f'{key} {format_value(value)}' for key, value in preset.params.items())}")
        say(f"  {preset.source} ({preset.date})")
        if spec is not None:
            why = found["refused"].get(preset.name)
            say("  can be used" if why is None else f"  cannot be used: {why['rule']}; {why['remedy']}")
    for line in found.get("rates", ()):
        say(line)


def _plain(preset: Preset) -> dict[str, Any]:
    return {field.name: getattr(preset, field.name) for field in fields(preset)} | {
        "params": dict(preset.params)
    }


def _for(spec: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    from sweepft.spec import load, place_range, presets_for, rate_rule, rate_warnings
    from sweepft.spec.rate_rules import batch_sizes

    loaded = load(spec, overrides, check_files=False)
    refused = {name: why for name, why in presets_for(loaded).items() if why is not None}
    rule = rate_rule(loaded)
    rates = [] if rule is None else [place_range(loaded, rule)]
    if rule is None:
        rates.append("no rule of thumb for the learning rate: the model is not on this machine")
    return {
        "refused": {name: {"rule": why[0], "remedy": why[1]} for name, why in refused.items()},
        "rule": None
        if rule is None
        else {**asdict(rule), "rate": {str(n): rule.rate(n) for n in batch_sizes(loaded)}},
        "rates": [*rates, *(f"warning: {line}" for line in rate_warnings(loaded, rule))],
    }
