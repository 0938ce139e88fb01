"""Draws the two pictures of the architecture page: ``python docs/images/draw.py`` writes them beside this file."""

from __future__ import annotations

import tomllib
from html import escape
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
FONT = "font-family='system-ui, -apple-system, Segoe UI, Roboto, sans-serif'"
NOTES = {
    "cli": "parse, call one function, print",
    "init": "write a first spec, read configs of other trainers",
    "plan": "estimate, apply rules to recorded runs, example",
    "driver": "one sweep from start to end (Ray Tune)",
    "report": "read the ledger; no Ray session",
    "search": "Optuna by ask and tell, bridge to Ray",
    "slot": "one Ray trainable and its ranks",
    "training": "torch, DeepSpeed, lm-eval: rank processes only",
    "data": "read, tokenise, order",
    "spec": "the YAML file; public entry points",
    "early_stopping": "rules; Ray and Optuna adapters",
    "ledger": "rows, state, ranking",
    "extras": "optional packages, streams, signals, child processes, secrets",
    "bounded_json": "readers with limits; what looks like a secret",
    "files": "writing files; text that is safe to show",
    "errors": "the error tree",
}
"""What a layer does, by its first package."""
WAY = [
    ("sweep.yaml", "spec: load, validate, freeze"),
    ("driver: run_sweep", "run folder, Ray, control, faults"),
    ("search: propose", "Optuna ask: params of a trial"),
    ("slot: step", "resets its engine, trains to a report point"),
    ("training: step", "each rank: batches, loss, optimizer"),
    ("slot: result", "history, validation loss, costs"),
    ("early_stopping: decide", "continue, stop, pause or audit"),
    ("ledger: append", "steps, eval, decision, cost rows"),
    ("report", "ranked.csv, report.html, best/"),
]


def _box(x: float, y: float, w: float, h: float, title: str, note: str = "", fill: str = "#e8eaf6") -> str:
    middle = y + h / 2 + (-4 if note else 5)
    parts = [
        f"<rect x='{x}' y='{y}' width='{w}' height='{h}' rx='8' fill='{fill}' stroke='#3f51b5'/>",
        f"<text x='{x + w / 2}' y='{middle}' text-anchor='middle' font-size='15' font-weight='600' "
        f"fill='#1a237e'>{escape(title)}</text>",
    ]
    if note:
        parts.append(
            f"<text x='{x + w / 2}' y='{y + h / 2 + 15}' text-anchor='middle' font-size='12' "
            f"fill='#424242'>{escape(note)}</text>"
        )
    return "".join(parts)


def _svg(width: int, height: int, label: str, body: list[str]) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' role='img' "
        f"aria-label='{escape(label)}' {FONT}>"
        "<defs><marker id='arrow' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='8' markerHeight='8' "
        "orient='auto-start-reverse'><path d='M0 0 L10 5 L0 10 z' fill='#3f51b5'/></marker></defs>"
        f"<rect width='{width}' height='{height}' rx='12' fill='#ffffff'/>{''.join(body)}</svg>\n"
    )


def layers() -> list[list[str]]:
    """The layers of the import contract, top to bottom."""
    contract = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    rows = contract["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[name.strip().removeprefix("sweepft.") for name in row.split("|")] for row in rows]


def packages() -> str:
    """The layers, top to bottom; boxes of a row do not import each other."""
    width, row, body = 860, 56, []
    for i, names in enumerate(layers()):
        y = 16 + i * row
        w = (480 - 8 * (len(names) - 1)) / len(names)
        body += [_box(16 + j * (w + 8), y, w, 42, name) for j, name in enumerate(names)]
        body.append(
            f"<text x='512' y='{y + 26}' font-size='13' fill='#424242'>{escape(NOTES.get(names[0], ''))}</text>"
        )
    height = 16 + len(layers()) * row + 24
    body.append(
        f"<text x='16' y='{height - 12}' font-size='13' fill='#424242'>"
        "An upper layer imports lower ones, never the other way.</text>"
    )
    return _svg(width, height, "Packages of sweepft in layers", body)


def way() -> str:
    """A trial's way, three boxes a row, each row from left to right."""
    w, h, gap, body = 260, 64, 34, []
    line = "stroke='#3f51b5' stroke-width='1.6' fill='none' marker-end='url(#arrow)'"
    places = [(16 + (i % 3) * (w + gap), 16 + (i // 3) * (h + 48)) for i in range(len(WAY))]
    for (x, y), (title, note) in zip(places, WAY, strict=True):
        body.append(_box(x, y, w, h, title, note))
    for (x, y), (to_x, to_y) in pairwise(places):
        if y == to_y:
            body.append(f"<path d='M{x + w} {y + h / 2} H{to_x}' {line}/>")
        else:
            body.append(f"<path d='M{x + w / 2} {y + h} v24 H{to_x + w / 2} V{to_y}' {line}/>")
    back, (x, y) = places[3], places[6]
    body.append(
        f"<path d='M{x + 40} {y} V{back[1] + h}' {line} stroke-dasharray='5 4'/>"
        f"<text x='{x + 48}' y='{y - 8}' font-size='12' fill='#424242'>continue</text>"
    )
    return _svg(16 * 2 + 3 * w + 2 * gap, 16 * 2 + 3 * h + 2 * 48, "The way of a trial", body)


if __name__ == "__main__":
    (HERE / "packages.svg").write_text(packages(), encoding="utf-8")
    (HERE / "trial.svg").write_text(way(), encoding="utf-8")
