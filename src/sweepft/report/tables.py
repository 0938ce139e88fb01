"""ranked.csv, report.md and the table on the terminal: the ranking for spreadsheets, pull requests and eyes."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections import Counter
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from sweepft.ledger import SweepState
from sweepft.report.finalists import finalist_cells, finalists_markdown
from sweepft.report.format import duration, money, number, one_line, percent, said, shorten
from sweepft.report.summary import SIMULATED, summarise

CSV_COLUMNS = (
    *(
        "trial_id",
        "rank",
        "status",
        "objective",
        "objective_stderr",
        "reach",
        "step",
        "samples_seen",
        "tokens_seen",
    ),
    *("stop_rung", "reason", "seconds", "origin"),
)


"""The fixed columns. Swept settings follow by their key, then ``validation.<set>`` losses, then finalists' scores."""


STYLES = {
    "completed": "blue",
    "stopped": "yellow",
    "paused": "cyan",
    "diverged": "red",
    "failed": "magenta",
    "running": "green",
}


def ranked_csv(summary: dict[str, Any]) -> str:
    """One row a trial, best first; what is not known is empty.

    A setting whose key is that of a fixed column stands under ``params.<key>``. A text that a spreadsheet
    would take for a formula gets a leading apostrophe.
    """
    swept = {
        k: f"params.{k}" if k in CSV_COLUMNS or k.startswith("validation.") else k for k in summary["swept"]
    }
    sets = list(dict.fromkeys(name for t in summary["trials"] for name in t["validation"]))
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    finals = finalist_cells(summary)
    heads = (*CSV_COLUMNS, *swept.values(), *(f"validation.{s}" for s in sets), *finals.columns)
    write.writerow(_cell(c) for c in heads)
    for t in summary["trials"]:
        fixed = {**t, "stop_rung": (t["stop"] or {}).get("rung")}
        cells = [fixed[c] for c in CSV_COLUMNS]
        cells += [t["params"].get(k) for k in swept]
        cells += [(t["validation"].get(s) or {}).get("loss") for s in sets]
        cells += finals.of(t["trial_id"])
        write.writerow(_cell(c) for c in cells)
    return out.getvalue()


def markdown(summary: dict[str, Any], limit: int = 20) -> str:
    """The report for a pull request: the answer, the first ``limit`` trials, the findings."""
    a, c = summary["answer"], summary["cost"]
    lines = [f"# {_md(summary['name'])}: sweep report", ""]
    lines += [f"**Simulated sweep:** {SIMULATED}", ""] if summary["simulated"] else []
    lines += [_md(a["headline"]), ""]
    if a["winner"]:
        w = a["winner"]
        stderr = f" ± {w['stderr']:.4f}" if w["stderr"] is not None else ""
        settings = ", ".join(f"{_md(k)} = {_md(number(v))}" for k, v in w["params"].items())
        lines += [
            f"- **Winner** {_md(w['trial_id'])}: {settings}",
            f"- **Held-out loss** {w['objective']:.4f}{stderr} nats per target token",
        ]
        if a["runner_up"]:
            noise = f" ± {a['difference']['stderr']:.4f}" if a["difference"]["stderr"] is not None else ""
            by = "" if a["by"] == "objective" else f" by {_md(a['by'])}"
            behind = f"{a['difference']['value']:.4f}{noise} behind{by}, {a['difference']['text']}"
            lines.append(f"- **Runner-up** {_md(a['runner_up']['trial_id'])}: {behind}")
    counts = ", ".join(f"{n} {status}" for status, n in summary["counts"].items()) or "none"
    unit = "GPU" if c["unit"] == "gpu_seconds" else "slot"
    lines += [
        f"- **Trials** {counts}",
        f"- **Cost** {duration(c['used'])} of {unit} time; "
        f"stopping saved {percent(c['saved_share'])} ({duration(c['saved'])})",
        *([f"- **Price** {_price(c)}"] if c["price"] else []),
        *([f"- **Sharing** {c['sharing']['text']}"] if c["sharing"] else []),
        *_faults(summary["faults"], c["lost_to_faults"]),
    ]
    lines += [*_error_rates(summary["stops"]), *(f"- **Mind** {_md(e['text'])}" for e in a["edges"]), ""]
    lines += finalists_markdown(summary, _md)
    lines += [*_md_table(summary, limit), "", "## Recipe findings", ""]
    lines += [
        f"- {f['claim']} ({_md(f['metric'])}) **{f['conclusion']}**. {f['text']}" for f in summary["findings"]
    ]
    lines += ["", "## Not measured", "", *(f"- {_md(line)}" for line in summary["not_measured"]), ""]
    return "\n".join(lines)


def _faults(faults: list[dict[str, Any]], lost: float) -> list[str]:
    """How often what went wrong, most often first, and what it cost."""
    if not faults:
        return []
    kinds = Counter(str(f["error"]) for f in faults).most_common()
    told = ", ".join(f"{_md(kind)} x {count}" if count > 1 else _md(kind) for kind, count in kinds)
    return [f"- **Faults** {told}; {duration(lost)} lost to them"]


def comparison_markdown(comparison: dict[str, Any]) -> str:
    """Several sweeps for a pull request: the best of each, its cost, and where the specs differ."""
    names = (
        "sweep",
        "status",
        "best trial",
        "held-out loss",
        "behind",
        "settings",
        "trials",
        "time held",
        "saved",
        "price",
    )
    lines = ["# Sweeps compared", "", _md(comparison["headline"]), "", "| " + " | ".join(names) + " |"]
    lines.append("|" + " --- |" * len(names))
    for s in comparison["sweeps"]:
        w, c, behind = s["winner"] or {}, s["cost"], s["behind"]
        stderr = f" ± {w['stderr']:.4f}" if w.get("stderr") is not None else ""
        cells = [
            *(s["label"], s["status"], w.get("trial_id") or "—"),
            f"{w['objective']:.4f}{stderr}" if w else "—",
            f"{behind['value']:.4f}, {behind['text']}"
            if behind
            else "best"
            if s["label"] == comparison["best"]
            else "—",
            ", ".join(f"{k} = {number(v)}" for k, v in (w.get("params") or {}).items()),
            f"{s['trials']} ({', '.join(f'{n} {status}' for status, n in s['counts'].items())})",
            f"{duration(c['capacity'])} of {'GPU' if c['unit'] == 'gpu_seconds' else 'slot'} time",
            percent(c["saved_share"]),
            money(c["price"]["paid"]) if c["price"] else "—",
        ]
        lines.append("| " + " | ".join(_md(cell) for cell in cells) + " |")
    lines += ["", "## Where the specs differ", ""]
    if not comparison["differences"]:
        return "\n".join([*lines, "Nowhere.", ""])
    heads = ["key", *(s["label"] for s in comparison["sweeps"])]
    lines += ["| " + " | ".join(_md(h) for h in heads) + " |", "|" + " --- |" * len(heads)]
    for d in comparison["differences"]:
        lines.append("| " + " | ".join(_md(said(c)) for c in (d["key"], *d["values"])) + " |")
    return "\n".join([*lines, ""])


def terminal_table(
    view: SweepState, summary: dict[str, Any] | None = None, limit: int = 30
) -> RenderableType:
    """The ranking as a rich renderable, with the answer above it.

    Args:
        view: The sweep.
        summary: `summarise(view)` where it is at hand already.
        limit: Trials shown at most.
    """
    summary = summary or summarise(view)
    parts: list[RenderableType] = [
        *([Text(f"simulated sweep: {SIMULATED}", style="yellow")] if summary["simulated"] else []),
        Text(summary["answer"]["headline"], style="bold"),
        _Ranking(summary, limit),
    ]
    if len(summary["trials"]) > limit:
        parts.append(Text(f"… and {len(summary['trials']) - limit} more in ranked.csv", style="dim"))
    # Reasons are sentences: beside a wide space they would leave no room for the settings.
    for t in [t for t in summary["trials"][:limit] if t["reason"]]:
        why = Text.assemble((f"{shorten(one_line(t['trial_id']), 24)} {t['status']}: ", "dim"))
        parts.append(why.append(shorten(one_line(t["reason"]), 300), style="dim"))
    c = summary["cost"]
    saved = f"stopping saved {percent(c['saved_share'])} ({duration(c['saved'])})"
    parts.append(Text(f"{duration(c['used'])} of trial time on {c['slots']} slots; {saved}", style="dim"))
    if c["price"]:
        parts.append(Text(f"price: {_price(c)}", style="dim"))
    if c["sharing"]:
        parts.append(Text(c["sharing"]["text"], style="dim"))
    parts += [Text(e["text"], style="yellow") for e in summary["answer"]["edges"]]
    return Group(*parts)


class _Ranking:
    """The table of trials with as many settings as the terminal has room for: nothing shown is cut."""

    def __init__(self, summary: dict[str, Any], limit: int) -> None:
        self._trials = summary["trials"][:limit]
        self._swept = list(summary["swept"])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for shown in range(len(self._swept), -1, -1):
            table = self._table(self._swept[:shown])
            if console.measure(table, options=options.update(max_width=10_000)).maximum <= options.max_width:
                break
        yield from (Text(), table, Text())
        if shown < len(self._swept):
            left = ", ".join(one_line(key) for key in self._swept[shown:])
            yield Text(f"no room here for {left}: see ranked.csv", style="dim")

    def _table(self, swept: list[str]) -> Table:
        table = Table(
            expand=False,
            header_style="bold",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
            pad_edge=False,
        )
        table.add_column("#", justify="right", no_wrap=True)
        table.add_column("trial", no_wrap=True)
        table.add_column("status", no_wrap=True)
        table.add_column("held-out\nloss", justify="right", no_wrap=True)
        for key in swept:
            # A name broken between its words keeps the column narrow.
            name = shorten(one_line(key.rsplit(".", 1)[-1]), 24).replace("_", "\n")
            table.add_column(Text(name), justify="right", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        for t in self._trials:
            loss = "—" if t["objective"] is None else f"{t['objective']:.4f}"
            if t["objective"] is not None and t["objective_stderr"] is not None:
                loss += f" ±{t['objective_stderr']:.3f}"
            cells = ["—" if t["rank"] is None else str(t["rank"]), shorten(one_line(t["trial_id"]), 24)]
            row = [Text(c) for c in cells]
            status = t["status"] if t["status"] == "completed" else f"{t['status']} {percent(t['reach'])}"
            row += [Text(status, style=STYLES.get(t["status"], "dim")), Text(loss)]
            row += [Text(_brief(t["params"].get(k))) for k in swept]
            row += [Text(duration(t["seconds"]).replace(" min", "m").replace(" ", ""))]
            table.add_row(*row, style="bold" if t["rank"] == 1 else None)
        return table


def _error_rates(stops: dict[str, Any]) -> list[str]:
    """Both error rates of the scheduler, each with its interval and what it is worth."""
    audits, lost = stops["audits"], stops["good_lost"]
    wrong, missed = f"not measured, {audits['status']}", f"not measured, {lost['status']}"
    if audits["rate"]:
        past = audits["earlier"]
        pooled = f", {past['audited']} of them in earlier sweeps" if past["sweeps"] else ""
        good, audited = audits["good"] + past["good"], audits["finished"] + past["audited"]
        wrong = f"{good} of {audited} audited{pooled} ({_interval(audits['rate'])}), {audits['status']}"
    if lost["rate"]:
        missed = f"{percent(lost['rate']['value'])} ({_interval(lost['rate'])}), {lost['status']}"
    share = percent(audits["good_share"])
    return [
        f"- **Wrong stops** (of the condemned, those among the best {share}) {wrong}",
        f"- **Good trials lost** (of the best {share}, those condemned) {missed}",
    ]


def _interval(rate: dict[str, float]) -> str:
    return f"95%: {percent(rate['low'])} to {percent(rate['high'])}"


def _price(cost: dict[str, Any]) -> str:
    p, unit = cost["price"], "GPU" if cost["unit"] == "gpu_seconds" else "slot"
    return (
        f"{money(p['paid'])} for all {unit} time at {money(p['per_hour'])} per {unit}-hour; "
        f"stopping saved {money(p['saved'])}"
    )


def _brief(value: Any) -> str:
    """A setting in few characters; all digits are in ranked.csv."""
    return f"{value:.3g}" if isinstance(value, float) else shorten(number(value), 24)


def _md_table(summary: dict[str, Any], limit: int) -> list[str]:
    names = ["rank", "trial", "status", "held-out loss", *summary["swept"], "reach", "why it ended"]
    lines = ["## Ranking", "", "| " + " | ".join(_md(n) for n in names) + " |", "|" + " --- |" * len(names)]
    for t in summary["trials"][:limit]:
        cells = [
            number(t["rank"]),
            t["trial_id"],
            t["status"],
            "—" if t["objective"] is None else f"{t['objective']:.4f}",
        ]
        cells += [number(t["params"].get(k)) for k in summary["swept"]]
        cells += [percent(t["reach"]), shorten(t["reason"] or "", 120)]
        lines.append("| " + " | ".join(_md(c) for c in cells) + " |")
    if len(summary["trials"]) > limit:
        lines += ["", f"… and {len(summary['trials']) - limit} more in `ranked.csv`."]
    return lines


def _md(text: Any) -> str:
    """Text that Markdown shows as it is: one line, its signs escaped."""
    text = html.escape(shorten(one_line(str(text)), 300), quote=False)
    return "".join("\\" + c if c in "\\`*_{}[]#|~" else c for c in text)


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
