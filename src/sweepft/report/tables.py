"""The report as text: `ranked.csv` for spreadsheets, `report.md` for pull requests, a table for the terminal."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import Any, Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

import sweepft.report.format as fmt
from sweepft.ledger import SweepState
from sweepft.report.best_of import LENGTH_INTRO
from sweepft.report.bounds import bounded_values
from sweepft.report.format import UNKNOWN, duration, loss, number, one_line, percent, shorten
from sweepft.report.nodes import node_lines
from sweepft.report.summary import SIMULATED, summarise

# Swept hyperparameters follow by their key, then `validation.<set>` losses and `task.<name>` values, then the scores of
# the finalists.
CSV_COLUMNS: Final = (
    "trial_id", "rank", "status", "objective", "objective_stderr", "progress", "step", "samples_seen", "tokens_seen",
    "stop_rung", "reason", "seconds", "origin", "violation", "best_step", "end_objective",
)  # fmt: skip
_STYLES: Final = {
    "completed": "blue",
    "stopped": "yellow",
    "paused": "cyan",
    "diverged": "red",
    "failed": "magenta",
    "running": "green",
}


# --- ranked.csv ---------------------------------------------------------------------------------------


def ranked_csv(summary: dict[str, Any]) -> str:
    """One row a trial, best first; unknown values are empty.

    A hyperparameter with the key of a fixed column is written as ``params.<key>``. A text that a spreadsheet
    would read as a formula gets a leading apostrophe.
    """
    swept = {
        k: f"params.{k}" if k in CSV_COLUMNS or k.startswith(("validation.", "task.")) else k
        for k in summary["swept"]
    }
    sets = list(dict.fromkeys(name for t in summary["trials"] for name in t["validation"]))
    tasks = list(dict.fromkeys(name for t in summary["trials"] for name in t["tasks"]))
    scored, scores = _score_columns(summary["finalists"])
    derived = summary["derived"]
    heads = [
        *CSV_COLUMNS,
        *swept.values(),
        *derived,
        *(f"validation.{s}" for s in sets),
        *(f"task.{s}" for s in tasks),
        *scored,
    ]
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    write.writerow(fmt.csv_cell(c) for c in heads)
    for t in summary["trials"]:
        best = t["best"] or {}
        fixed = {
            **t,
            "stop_rung": (t["stop"] or {}).get("rung"),
            "best_step": best.get("step"),
            "end_objective": best.get("end"),
        }
        cells = [fixed[c] for c in CSV_COLUMNS]
        cells += [t["params"].get(k) for k in swept] + [t["derived"].get(k) for k in derived]
        cells += [(t["validation"].get(s) or {}).get("loss") for s in sets]
        cells += [(t["tasks"].get(s) or {}).get("value") for s in tasks]
        cells += scores.get(t["trial_id"], [None] * len(scored))
        write.writerow(fmt.csv_cell(c) for c in cells)
    return out.getvalue()


def _score_columns(finalists: dict[str, Any] | None) -> tuple[list[str], dict[str, list[Any]]]:
    """``finalist.place``, and each metric of each test set and task with its standard error: heads, cells by trial."""
    if not finalists:
        return [], {}
    rows = finalists["rows"]
    pairs = list(dict.fromkeys((n, m) for row in rows for n, found in row["scores"].items() for m in found))
    heads = [f"score.{name}.{metric}{end}" for name, metric in pairs for end in ("", ".stderr")]
    cells = {}
    for row in rows:
        found = [row["scores"].get(name, {}).get(metric) or {} for name, metric in pairs]
        cells[row["trial_id"]] = [row["place"], *(f.get(key) for f in found for key in ("value", "stderr"))]
    return ["finalist.place", *heads], cells


# --- report.md ----------------------------------------------------------------------------------------


def markdown(summary: dict[str, Any], limit: int = 20) -> str:
    """The report for a pull request: the result, the first ``limit`` trials, the findings."""
    result, cost, md = summary["result"], summary["cost"], fmt.markdown
    lines = [f"# {md(summary['name'])}: sweep report", ""]
    lines += [f"**Simulated sweep:** {SIMULATED}", ""] if summary["simulated"] else []
    lines += [f"**{md(result['gain']['text'], 600)}**", "", md(result["headline"]), ""]
    lines += [f"- {md(detail, 600)}" for detail in result["gain"]["details"]] + [""]
    lines += [f"{md(summary['bounds']['text'], 600)}", ""] if summary["bounds"] else []
    lines += [f"{md(summary['enough']['text'], 600)}", ""] if summary["enough"] else []
    lines += [f"**Warning:** {md(lost['text'], 600)}\n" for lost in result["forgetting"]]
    lines += _winner_lines(result, summary["objective"])
    lines += [
        f"- **Trials** {md(fmt.counts(summary['counts']))}",
        f"- **Cost** {duration(cost['used'])} of {fmt.time_unit(cost)} time; {fmt.savings(cost)}",
        *([f"- **Price** {fmt.price(cost)}"] if cost["price"] else []),
        *([f"- **GPU sharing** {md(cost['sharing']['text'])}"] if cost["sharing"] else []),
        *_fault_lines(summary["faults"], cost["lost_to_faults"]),
        *node_lines(summary["nodes"]),
        *_error_rate_lines(summary["stops"]),
        *_patience_lines(summary["stops"]["patience"], fmt.time_unit(cost)),
        *_learned_lines(summary["learned"]),
        *(f"- **Warning** {md(edge['text'])}" for edge in result["edges"]),
        *_divergence_lines(summary["stops"]["divergence_check"]),
        "",
        *_finalist_lines(summary["finalists"], summary["objective"]),
        *_front_lines(summary["bounds"], summary["objective"]),
        *_length_lines(summary["by_length"], summary["objective"]),
        *_ranking_lines(summary, limit),
    ]
    lines += ["", "## Recipe findings", ""]
    lines += [
        f"- {md(f['claim'])} ({md(f['metric'])}) **{md(f['conclusion'])}**. {md(f['text'], 10_000)}"
        for f in summary["findings"]
    ]
    lines += ["", "## Not measured", "", *(f"- {md(line)}" for line in summary["not_measured"]), ""]
    return "\n".join(lines)


def _winner_lines(result: dict[str, Any], objective: dict[str, Any]) -> list[str]:
    winner, runner_up, difference = result["winner"], result["runner_up"], result["difference"]
    if winner is None:
        return []
    md = fmt.markdown
    name, task = objective["name"], objective["task"]
    heading = md(name) if task else name.capitalize()
    unit = f", {task['items']:,} items" if task and task["items"] else "" if task else f" {objective['unit']}"
    lines = [
        f"- **Winner** {md(winner['trial_id'])}: {md(fmt.assignments(winner['params'] | winner['derived']))}",
        f"- **{heading}** {fmt.value(winner['objective'], winner['stderr'], objective)}{unit}{_bits(winner)}",
    ]
    lines += [f"- **Objective** {md(task['text'], 600)}"] if task else []
    if winner["best"]:
        lines.append(f"- **Evaluation** {md(winner['best']['text'])}")
    if runner_up:
        by = "" if result["criterion"] == "objective" else f" by {result['criterion']}"
        gap = fmt.value(difference["value"], difference["stderr"], objective)
        behind = f"{gap} behind{by}, {difference['text']}"
        lines.append(f"- **Runner-up** {md(runner_up['trial_id'])}: {md(behind)}")
    return lines


def _learned_lines(learned: dict[str, Any] | None) -> list[str]:
    """The earlier sweeps that the sampler was shown."""
    if learned is None:
        return []
    md = fmt.markdown
    notes = [f"  - {md(row['name'])}: {md(note)}" for row in learned["sweeps"] for note in row["notes"]]
    return [f"- **Earlier sweeps** {md(learned['text'], 600)}", *notes]


def _bits(winner: dict[str, Any]) -> str:
    found = winner["bits_per_byte"]
    return f", {loss(found['objective'])} bits per byte" if found else ""


def _fault_lines(faults: list[dict[str, Any]], lost: float) -> list[str]:
    """Faults by kind, most frequent first, and the time they cost."""
    if not faults:
        return []
    kinds = Counter(str(f["error"]) for f in faults).most_common()
    shown = ", ".join(fmt.markdown(kind) + (f" x {n}" if n > 1 else "") for kind, n in kinds)
    return [f"- **Faults** {shown}; {duration(lost)} lost"]


def _error_rate_lines(stops: dict[str, Any]) -> list[str]:
    """Both error rates of early stopping, each with its interval and status."""
    audits, false_stops = stops["audits"], stops["false_stops"]
    wrong = f"not measured, {audits['status']}"
    missed = f"not measured, {false_stops['status']}"
    if audits["rate"]:
        prior = audits["prior_sweeps"]
        pooled = f", {prior['audited']} of them in prior sweeps" if prior["sweeps"] else ""
        top, audited = audits["top"] + prior["top"], audits["completed"] + prior["audited"]
        wrong = (
            f"{top} of {audited} audits{pooled} (95%: {fmt.percent_interval(audits['rate'])}), "
            f"{audits['status']}"
        )
    if false_stops["rate"]:
        rate = false_stops["rate"]
        missed = f"{percent(rate['value'])} (95%: {fmt.percent_interval(rate)}), {false_stops['status']}"
    share = percent(audits["top_fraction"])
    return [
        f"- **False discovery rate** (flagged trials that would have ended in the top {share}) {wrong}",
        f"- **False stop rate** (trials of the top {share} that were flagged) {missed}",
    ]


def _patience_lines(patience: dict[str, Any] | None, unit: str) -> list[str]:
    """How many trials their patience has ended; no line where the spec sets none."""
    if patience is None:
        return []
    trials = "trial" if patience["ended"] == 1 else "trials"
    return [
        f"- **Patience** ended {patience['ended']} {trials} after {patience['evaluations']} evaluations without a "
        f"better one, which saved {duration(patience['saved'])} of {unit} time"
    ]


def _length_lines(rows: list[dict[str, Any]], objective: dict[str, Any]) -> list[str]:
    """The best objective by length of training; no lines where trials count by their end."""
    if not rows:
        return []
    bounded = any(row["violation"] is not None for row in rows)
    heads = [
        *("budget", "epochs", "trials", "best trial", fmt.markdown(objective["name"])),
        *(["bounds"] if bounded else []),
        "honest end",
    ]
    cells = [
        [
            *(percent(row["fraction"]), number(row["epochs"], 3), number(row["trials"]), row["trial_id"]),
            fmt.value(row["objective"], None, objective),
            *([_bounds_cell(row["violation"])] if bounded else []),
            "yes" if row["honest_end"] else "no",
        ]
        for row in rows
    ]
    return ["## Results by length of training", "", LENGTH_INTRO, "", *fmt.markdown_table(heads, cells), ""]


def _divergence_lines(check: dict[str, Any]) -> list[str]:
    """That the divergence check stood down, if it did."""
    found = check["stood_down"]
    if found is None:
        return []
    at = f"trial {fmt.markdown(found['trial_id'])}, step {found['step']}"
    return [f"- **Warning** divergence checks stood down ({at}): {fmt.markdown(found['reason'])}"]


def _finalist_lines(finalists: dict[str, Any] | None, objective: dict[str, Any]) -> list[str]:
    """The finalists' table; no lines without finalists."""
    if not finalists:
        return []
    columns = finalists["columns"]
    heads = ["#", "trial", objective["name"], "over replicates"]
    heads += [f"{c['name']} ({c['metric']})" for c in columns]
    rows = []
    for row in finalists["rows"]:
        over = row["replicated"]
        known = over and over["low"] is not None
        interval = (
            f"{number(over['mean'])} ({number(over['low'])} to {number(over['high'])})" if known else UNKNOWN
        )
        scores = [fmt.score(row["scores"].get(c["name"], {}).get(c["metric"])) for c in columns]
        rows.append([number(row["place"]), row["trial_id"], number(row["objective"]), interval, *scores])
    base = [fmt.score(finalists["base"].get(c["name"], {}).get(c["metric"])) for c in columns]
    rows.append(["", "base model", UNKNOWN, UNKNOWN, *base])
    intro = f"Ordered by {fmt.markdown(finalists['criterion'])}; in brackets the change from the base model."
    return ["## Finalists", "", intro, "", *fmt.markdown_table(heads, rows), ""]


def _front_lines(bounds: dict[str, Any] | None, objective: dict[str, Any]) -> list[str]:
    """The front of objective against what is bounded; no lines without bounds."""
    if not bounds or not bounds["front"]:
        return []
    names = [row["set"] for row in bounds["sets"]]
    heads = ["trial", objective["name"], *names, "bounds", "weights"]
    rows = [
        [
            *(row["trial_id"], fmt.value(row["objective"], None, objective)),
            *(loss(row["losses"][name]) for name in names),
            *(
                _bounds_cell(row["violation"]),
                {None: UNKNOWN, True: "kept", False: "not kept"}[row["weights"]],
            ),
        ]
        for row in bounds["front"]
    ]
    of_tasks = any(row["metric"] for row in bounds["sets"])
    what = "losses and tasks" if of_tasks else "losses"
    intro = f"Completed trials that no other one beats on the objective and on all bounded {what}."
    return [f"## Objective against bounded {what}", "", intro, "", *fmt.markdown_table(heads, rows), ""]


def _bounds_cell(violation: float | None) -> str:
    """Whether a trial meets the bounds, or by how much it does not."""
    return UNKNOWN if violation is None else f"+{number(violation, 3)}" if violation else "met"


def _ranking_lines(summary: dict[str, Any], limit: int) -> list[str]:
    bounded = ["bounds"] if summary["bounds"] else []
    objective = summary["objective"]
    heads = ["rank", "trial", "status", objective["name"], *bounded, *summary["swept"], "progress", "reason"]
    rows = [
        [
            *(number(t["rank"]), t["trial_id"], t["status"]),
            fmt.value(t["objective"], t["objective_stderr"] if objective["task"] else None, objective),
            *(_bounds_cell(t["violation"]) for _ in bounded),
            *(number(t["params"].get(k)) for k in summary["swept"]),
            *(percent(t["progress"]), shorten(t["reason"] or "", 120)),
        ]
        for t in summary["trials"][:limit]
    ]
    lines = ["## Ranking", "", *fmt.markdown_table(heads, rows)]
    if len(summary["trials"]) > limit:
        lines += ["", f"… and {len(summary['trials']) - limit} more in `ranked.csv`."]
    return lines


# --- comparison.md ------------------------------------------------------------------------------------


def comparison_markdown(comparison: dict[str, Any]) -> str:
    """Several sweeps for a pull request: the best trial of each, its cost, and where the specs differ."""
    names = {s["objective"]["name"] for s in comparison["sweeps"]}
    objective = names.pop() if len(names) == 1 else "objective"
    heads = ["sweep", "status", "best trial", objective, "bits per byte", "behind the best",
             "hyperparameters", "trials", "time held", "saved", "price"]  # fmt: skip
    rows = [_comparison_row(s, comparison["best"]) for s in comparison["sweeps"]]
    lines = [
        "# Sweeps compared",
        "",
        fmt.markdown(comparison["headline"]),
        "",
        *fmt.markdown_table(heads, rows),
    ]
    lines += ["", "## Where the specs differ", ""]
    if not comparison["differences"]:
        return "\n".join([*lines, "Nowhere.", ""])
    heads = ["key", *(s["label"] for s in comparison["sweeps"])]
    rows = [[fmt.inline(cell) for cell in (d["key"], *d["values"])] for d in comparison["differences"]]
    return "\n".join([*lines, *fmt.markdown_table(heads, rows), ""])


def _comparison_row(sweep: dict[str, Any], best: str | None) -> list[str]:
    winner, cost, behind = sweep["winner"] or {}, sweep["cost"], sweep["behind"]
    gap = "best" if sweep["label"] == best else UNKNOWN
    return [
        *(sweep["label"], sweep["status"], winner.get("trial_id") or UNKNOWN),
        fmt.value(winner.get("objective"), winner.get("stderr"), sweep["objective"]),
        loss((winner.get("bits_per_byte") or {}).get("objective")),
        f"{fmt.value(behind['value'], None, sweep['objective'])}, {behind['text']}" if behind else gap,
        fmt.assignments(winner.get("params") or {}),
        f"{sweep['trials']} ({fmt.counts(sweep['counts'])})",
        f"{duration(cost['capacity'])} of {fmt.time_unit(cost)} time",
        percent(cost["saved_share"]),
        fmt.money(cost["price"]["paid"]) if cost["price"] else UNKNOWN,
    ]


# --- terminal -----------------------------------------------------------------------------------------


def terminal_table(
    sweep: SweepState, summary: dict[str, Any] | None = None, limit: int = 30
) -> RenderableType:
    """The ranking as a rich renderable, below the headline.

    Args:
        sweep: The sweep.
        summary: `summarise(sweep)`, if the caller has it already.
        limit: Maximum number of trials shown.
    """
    summary = summary or summarise(sweep)
    cost = summary["cost"]
    parts: list[RenderableType] = [
        *([Text(f"simulated sweep: {SIMULATED}", style="yellow")] if summary["simulated"] else []),
        Text(one_line(summary["result"]["gain"]["text"]), style="bold"),
        Text(one_line(summary["result"]["headline"])),
        *(Text(one_line(detail)) for detail in summary["result"]["gain"]["details"]),
        *_objective_texts(summary),
        *_best_texts(summary["result"]["winner"]),
        *_bounds_texts(summary["bounds"], summary["result"]["winner"]),
        *([Text(one_line(summary["enough"]["text"]))] if summary["enough"] else []),
        *(
            Text(f"warning: {one_line(lost['text'])}", style="yellow")
            for lost in summary["result"]["forgetting"]
        ),
        _Ranking(summary, limit),
    ]
    if len(summary["trials"]) > limit:
        parts.append(Text(f"… and {len(summary['trials']) - limit} more in ranked.csv", style="dim"))
    # Reasons are sentences: as a column they would leave no room for the hyperparameters.
    for t in [t for t in summary["trials"][:limit] if t["reason"]]:
        line = Text(f"{shorten(one_line(t['trial_id']), 24)} {one_line(t['status'])}: ", style="dim")
        parts.append(line.append(shorten(one_line(t["reason"]), 300)))
    slots = f"{cost['slots']} slot{'' if cost['slots'] == 1 else 's'}"
    notes = [f"{duration(cost['used'])} of trial time on {slots}; {fmt.savings(cost)}"]
    notes += [f"price: {fmt.price(cost)}"] if cost["price"] else []
    notes += [cost["sharing"]["text"]] if cost["sharing"] else []
    notes += [one_line(summary["learned"]["text"])] if summary["learned"] else []
    parts += [Text(note, style="dim") for note in notes]
    parts += [
        Text(f"warning: {one_line(edge['text'])}", style="yellow") for edge in summary["result"]["edges"]
    ]
    return Group(*parts)


def _objective_texts(summary: dict[str, Any]) -> list[Text]:
    """The winner's score with its noise, and what the task took; nothing for a validation loss."""
    objective, winner = summary["objective"], summary["result"]["winner"]
    task = objective["task"]
    if task is None or winner is None:
        return []
    value = fmt.value(winner["objective"], winner["stderr"], objective)
    items = f", {task['items']:,} items" if task["items"] else ""
    return [
        Text(one_line(f"{winner['trial_id']}: {objective['name']} {value}{items}")),
        Text(one_line(task["text"]), style="dim"),
    ]


def _best_texts(winner: dict[str, Any] | None) -> list[Text]:
    best = (winner or {}).get("best")
    return [Text(one_line(f"{winner['trial_id']} counts by {best['text']}."))] if winner and best else []


def _bounds_texts(bounds: dict[str, Any] | None, winner: dict[str, Any] | None) -> list[Text]:
    """Who meets the bounds, and what the winner has."""
    if bounds is None:
        return []
    found = [Text(one_line(bounds["text"]), style="yellow" if bounds["nearest"] else "")]
    values = bounded_values(bounds, winner) if winner is not None else ""
    return found + ([Text(one_line(f"{winner['trial_id']}: {values}."))] if winner and values else [])


class _Ranking:
    """The table of trials with as many hyperparameters as fit into the terminal without cutting a cell."""

    def __init__(self, summary: dict[str, Any], limit: int) -> None:
        self._trials = summary["trials"][:limit]
        self._swept = list(summary["swept"])
        self._bounded = summary["bounds"] is not None
        self._objective = summary["objective"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for shown in range(len(self._swept), -1, -1):
            table = self._table(self._swept[:shown])
            if console.measure(table, options=options.update(max_width=10_000)).maximum <= options.max_width:
                break
        yield from (Text(), table, Text())
        if shown < len(self._swept):
            hidden = ", ".join(one_line(key) for key in self._swept[shown:])
            yield Text(f"hidden (terminal too narrow): {hidden}; see ranked.csv", style="dim")

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
        table.add_column(
            Text(self._objective["name"].replace(" ", "\n").replace("_", "\n")), justify="right", no_wrap=True
        )
        if self._bounded:
            table.add_column("bounds", justify="right", no_wrap=True)
        for key in swept:
            # A name broken between its words keeps the column narrow.
            name = shorten(one_line(key.rsplit(".", 1)[-1]), 24).replace("_", "\n")
            table.add_column(Text(name), justify="right", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        for t in self._trials:
            cells = [UNKNOWN if t["rank"] is None else str(t["rank"]), shorten(one_line(t["trial_id"]), 24)]
            row = [Text(c) for c in cells]
            status = t["status"] if t["status"] == "completed" else f"{t['status']} {percent(t['progress'])}"
            row.append(Text(one_line(status), style=_STYLES.get(t["status"], "dim")))
            row.append(
                Text(fmt.value(t["objective"], t["objective_stderr"], self._objective).replace("± ", "±"))
            )
            row += [Text(_bounds_cell(t["violation"]))] if self._bounded else []
            row += [Text(_short_param(t["params"].get(k))) for k in swept]
            row.append(Text(duration(t["seconds"]).replace(" min", "m").replace(" ", "")))
            table.add_row(*row, style="bold" if t["rank"] == 1 else None)
        return table


def _short_param(value: Any) -> str:
    """A hyperparameter in few characters; ranked.csv has all digits."""
    return f"{value:.3g}" if isinstance(value, float) else shorten(number(value), 24)
