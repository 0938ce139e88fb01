"use strict";
// The sheet of one trial: its hyperparameters, curves, decisions, faults and cost.

let opened = null;

function openTrial(id) {
  if (!byId.has(id)) return;
  opened = id;
  const { record: t, curve } = byId.get(id);
  const dialog = $("trial");
  const plot = make("div", { class: "chart", id: "c-trial" });
  const sheet = make("div", { class: "sheet" });
  const title = make("h2", { id: "trial-title" }, clip(t.trial_id, 80));
  const place = t.rank ? "rank " + t.rank : "not ranked";
  dialog.replaceChildren(
    make("div", { class: "sheet-top" }, title, make("span", { class: "tag tag-" + (STATUSES.includes(t.status) ? t.status : "other") }, clip(t.status, 20)), make("span", { class: "muted" }, place),
      make("button", { class: "ghost", type: "button", onclick: () => step(-1), "aria-label": "Previous trial" }, "‹"),
      make("button", { class: "ghost", type: "button", onclick: () => step(1), "aria-label": "Next trial" }, "›"),
      make("button", { class: "ghost", type: "button", onclick: () => dialog.close(), "aria-label": "Close" }, "✕")),
    sheet);
  if (t.reason) sheet.append(make("p", {}, clip(t.reason, 2000)));
  const params = make("dl", { class: "params" });
  for (const [key, value] of Object.entries(t.params)) params.append(make("div", {}, make("dt", {}, clip(key, 60)), make("dd", {}, clip(num(value), 120))));
  sheet.append(params, make("h3", {}, "Training"), plot, facts(t));
  decisions(sheet, curve);
  if (curve.f.length) {
    sheet.append(make("h3", {}, "Faults"), tableOf(["error", "action", "lost"], curve.f.map((f) => [plain(f.error) + ": " + plain(f.message), plain(f.action), duration(f.lost_seconds)])));
  }
  sheet.append(make("h3", {}, "Retrain this trial"), make("pre", {}, "sweepft train RUN --trial " + quoted(t.trial_id)), make("p", { class: "muted" }, "RUN is the folder of this page. The trial is trained with the same hyperparameters, seed and sample order."));
  sheet.append(make("h3", {}, "Start a sweep with these hyperparameters"), make("pre", {}, "search:\n  start_with:\n    - " + JSON.stringify(t.params)));
  sheet.append(make("details", {}, make("summary", {}, "Train config"), make("pre", {}, JSON.stringify(curve.c, null, 2))));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  chart("c-trial", () => trialFigure(t, curve));
  drawn.delete("c-trial");
  draw("c-trial");
  history.replaceState(null, "", "#trial=" + encodeURIComponent(id.replace(/\p{Surrogate}/gu, "\ufffd")));
}

// Quoted for a shell.
const quoted = (text) => (/^[\w.:-]+$/.test(text) ? text : "'" + clip(text, 300).replaceAll("'", "'\\''") + "'");

function step(by) {
  const order = rows(columns()).map((t) => t.trial_id);
  const next = order[order.indexOf(opened) + by];
  if (next !== undefined) openTrial(next);
}

function facts(t) {
  const gpu = R.cost.unit === "gpu_seconds";
  const list = [
    [objectiveName(), isNumber(t.objective) ? num(t.objective, 6) + (isNumber(t.objective_stderr) ? " ± " + num(t.objective_stderr, 2) : "") + (R.objective.unit ? " " + R.objective.unit : "") : "none: the trial did not reach the full budget"],
    ...(t.best ? [["evaluation", t.best.text]] : []),
    ...Object.entries(t.validation).map(([name, s]) => ["· " + clip(name, 40), num(s.loss, 5) + (isNumber(s.stderr) ? " ± " + num(s.stderr, 2) : "") + (isNumber(s.samples) ? " on " + num(s.samples) + " samples" : "")]),
    ...(t.rank === null && t.last_eval ? [["at " + percent(t.last_eval.rung) + " of the budget", num(t.last_eval.objective, 5) + " (partial, not ranked)"]] : []),
    ["progress", percent(t.progress) + " of the budget: " + num(t.samples_seen) + " samples, " + num(t.tokens_seen) + " target tokens"],
    ["steps", num(t.step) + " of " + num(t.planned_steps) + ", warmup " + num(t.warmup_steps)],
    ["time", duration(t.seconds) + (gpu ? " on " + num(t.gpus) + " GPUs" : "") + Object.entries(t.seconds_by_phase).map(([p, s]) => " · " + clip(p, 30) + " " + duration(s)).join("")],
    ...(t.saved_seconds > 0 ? [["saved", duration(t.saved_seconds) + " by early stopping"]] : []),
    ["origin", t.origin + (t.replicate_of ? " of " + t.replicate_of + " with another seed, not ranked" : "") + (t.audited ? " · flagged and trained on as an audit" : "")],
    ["slots", t.slots.map(plain).join(", ") + (t.attempts > 1 ? " · " + t.attempts + " attempts" : "")],
    ["sample order", plain(t.data_order)],
  ];
  const body = make("tbody");
  for (const [key, value] of list) body.append(make("tr", {}, make("th", { scope: "row" }, key), make("td", {}, clip(value, 400))));
  return make("table", { class: "mini wide" }, body);
}

function decisions(sheet, curve) {
  if (!curve.v.length) return;
  const evidence = (e) => Object.entries(e ?? {}).map(([k, v]) => k + " " + clip(num(v), 120)).join(", ");
  const withProbability = curve.v.some((v) => isNumber(v.p_top));
  sheet.append(make("h3", {}, "Decisions"), tableOf(["rung", "action", "rule", ...(withProbability ? ["P(top)"] : []), "reason", "evidence"],
    curve.v.map((v) => [isNumber(v.rung) ? percent(v.rung) : "step " + num(v.step), plain(v.action), plain(v.rule), ...(withProbability ? [num(v.p_top, 2)] : []), plain(v.reason), evidence(v.evidence)])));
}

function tableOf(names, lines) {
  const head = make("tr"), body = make("tbody");
  for (const name of names) head.append(make("th", { scope: "col" }, name));
  for (const line of lines) {
    const row = make("tr");
    for (const cell of line) row.append(make("td", {}, clip(cell, 1500)));
    body.append(row);
  }
  return make("div", { class: "table" }, make("table", { class: "plain stack" }, make("thead", {}, head), body));
}

function trialFigure(t, curve) {
  const sets = [...new Set(curve.e.flatMap((e) => Object.keys(e[4])))];
  const line = (name, y, color, more = {}) => ({ type: "scatter", mode: "lines", name, x: curve.x, y, line: { color, width: 1.5 }, hovertemplate: "%{y:.5~g}<extra>" + name + "</extra>", ...more });
  const wash = { opacity: 0.35, showlegend: false, hoverinfo: "skip" };
  const traces = [line("", curve.l, css("s0"), wash), line("training loss", smooth(curve.l, curve.x), css("s0"))];
  (sets.length ? sets : [null]).forEach((name, i) => traces.push(line("validation" + (name === null ? "" : " " + label(name, 20)), curve.e.map((e) => (name === null ? e[3] : e[4][name] ?? null)), css(["s5", "s6", "s4", "s2"][i % 4]),
    { x: curve.e.map((e) => e[1]), mode: "lines+markers", marker: { size: 6 } })));
  traces.push(line("", curve.g, css("s2"), { ...wash, yaxis: "y2" }), line("gradient norm", smooth(curve.g, curve.x), css("s2"), { yaxis: "y2", showlegend: false }), line("learning rate", curve.r, css("s4"), { yaxis: "y3", showlegend: false }));
  const marks = curve.v.filter((v) => v.action !== "continue" && isNumber(v.samples_seen));
  const shapes = marks.map((v) => ({ type: "line", x0: v.samples_seen, x1: v.samples_seen, yref: "paper", y0: 0, y1: 1, line: { color: css("stopped"), width: 1.4, dash: "dot" } }));
  const notes = marks.map((v) => ({ x: v.samples_seen, yref: "paper", y: 1, yanchor: "bottom", text: label(v.action, 12), showarrow: false, font: { size: 11, color: css("stopped") } }));
  const heights = robust(curve.l.slice(1).filter(isNumber), false);
  const held = curve.e.flatMap((e) => [R.objective.task ? null : e[3], ...Object.values(e[4])]).filter(isNumber);
  if (heights && held.length) { // a training loss can lie outside the range, a validation loss never
    const pad = 0.06 * (Math.max(...held) - Math.min(...held));
    heights[0] = Math.min(heights[0], Math.min(...held) - pad);
    heights[1] = Math.max(heights[1], Math.max(...held) + pad);
  }
  return { height: isPhone() ? 560 : 600, traces, layout: layout({ shapes, annotations: notes, legend: { ...layout().legend, y: 1.05 }, margin: { l: 58, r: 14, t: 20, b: 46 },
    xaxis: axis("training samples", { rangemode: "tozero", anchor: "y3" }), yaxis: axis("loss (nats per token)", { domain: [0.46, 1], ...(heights ? { range: heights } : {}) }),
    yaxis2: axis("gradient norm", { domain: [0.23, 0.42] }), yaxis3: axis("learning rate", { domain: [0, 0.19], rangemode: "tozero", exponentformat: "power", nticks: 4 }) }) };
}
