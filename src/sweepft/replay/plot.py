"""The trade-off of a replay as one self-contained page: compute saved against the best run kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from sweepft.replay.runner import ReplayRow

__all__ = ["write_plot"]


def write_plot(rows: Sequence[ReplayRow], path: Path) -> None:
    """Write the page; up and to the right is better."""
    figure = go.Figure()
    for rule in dict.fromkeys(r.rule for r in rows):
        part = [r for r in rows if r.rule == rule]
        figure.add_trace(
            go.Scatter(
                x=[r.score.saved for r in part],
                y=[r.score.best_kept_within_noise for r in part],
                mode="markers",
                name=rule,
                text=[f"{r.study}: {100 * r.score.false_stop:.0f}% of the good runs lost" for r in part],
            )
        )
    figure.update_layout(
        title="Early-stop rules on recorded runs: one dot a study",
        xaxis={"title": "share of compute saved", "range": [-0.02, 1]},
        yaxis={"title": "sweeps in which the best run was kept", "range": [-0.02, 1.05]},
    )
    path.write_text(figure.to_html(include_plotlyjs=True, full_html=True), encoding="utf-8")
