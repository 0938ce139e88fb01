"use strict";
// Charts of what was searched: importance, best so far, what more trials may gain, the map of two hyperparameters, slices, parallel lines, Pareto front.
// Only completed trials have a value; the others are shown as points that were tried.

const dot = (n, size) => (n > 200 ? 0.6 * size : size);
const done = () => R.trials.filter((t) => t.rank !== null);
// The winner among them: the finalists' scores can put another trial first than the ranking does.
const winnerOf = (list) => list.find((t) => t.trial_id === R.result.winner?.trial_id) ?? list[0];
const isLog = (key) => Boolean(D.space[key]?.log_uniform) || (R.trials.every((t) => t.params[key] > 0) && spread(key) >= 30);

function spread(key) {
  const values = R.trials.map((t) => t.params[key]).filter(isNumber);
  return values.length ? Math.max(...values) / Math.min(...values) : 1;
}

const isNumeric = (key) => R.trials.length > 0 && R.trials.every((t) => isNumber(t.params[key]));
const varied = () => R.swept.filter((k) => new Set(R.trials.map((t) => plain(t.params[k]))).size > 1);
// Numbers from a range are drawn on their own scale; everything else as ordered labels.
const isRange = (key, labels) => isNumeric(key) && labels.length > 1 && !D.space[key]?.choice && (key in D.space || labels.length > 6);

function paramAxis(key, title, room) {
  const labels = [...new Set(R.trials.map((t) => t.params[key]).map((v) => (isNumber(v) ? v : label(v, 18))))];
  if (isRange(key, labels)) {
    return { at: (t) => t.params[key], axis: isLog(key) ? logAxis(title, labels, {}, room) : axis(title, { nticks: room }), jitter: 0, edges: cuts(labels, isLog(key)) };
  }
  const numeric = isNumeric(key);
  labels.sort((a, b) => (numeric ? a - b : String(a) < String(b) ? -1 : 1));
  const shown = labels.map((v) => (numeric ? num(v) : v));
  const place = new Map(labels.map((v, i) => [v, i]));
  return {
    at: (t) => place.get(isNumber(t.params[key]) && numeric ? t.params[key] : isNumber(t.params[key]) ? t.params[key] : label(t.params[key], 18)),
    axis: axis(title, { tickvals: shown.map((_, i) => i), ticktext: shown, range: [-0.6, labels.length - 0.4], zeroline: false }), jitter: 0.16, edges: [...labels, null].map((_, i) => i - 0.5),
  };
}

// Edges of seven equal parts of the range of these numbers.
function cuts(values, log) {
  const f = log ? Math.log : (v) => v, back = log ? Math.exp : (v) => v;
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  return Array.from({ length: 8 }, (_, i) => (i === 0 ? low : i === 7 ? high : back(f(low) + ((f(high) - f(low)) * i) / 7)));
}

// The cells of two hyperparameters: the mean objective of the completed trials in each.
function heat(list, ax, ay, range) {
  const cell = (v, edges) => Math.max(0, Math.min(edges.length - 2, edges.findLastIndex((e) => v >= e)));
  const sums = ay.edges.slice(1).map(() => ax.edges.slice(1).map(() => []));
  for (const t of list) sums[cell(ay.at(t), ay.edges)][cell(ax.at(t), ax.edges)].push(t.objective);
  const z = sums.map((row) => row.map((v) => (v.length ? v.reduce((a, b) => a + b) / v.length : null)));
  return { type: "heatmap", x: ax.edges, y: ay.edges, z, colorscale: objectiveRamp(), zmin: range.cmin, zmax: range.cmax, showscale: false, opacity: 0.38, xgap: 2, ygap: 2, hoverongaps: false,
    text: sums.map((row) => row.map((v) => v.length + " completed")), hovertemplate: "mean " + label(R.objective.name) + " %{z:.4f}<br>%{text}<extra></extra>" };
}

// A small deterministic shift, so that trials with one label do not hide each other.
const shift = (t, size) => size * Math.sin(12.9898 * (t.number + 1));

const about = (t) => "<b>" + label(t.trial_id, 24) + "</b>" + (t.rank ? " rank " + t.rank + "<br>" + label(R.objective.name) + " " + num(t.objective, 5) : " " + t.status) +
  R.swept.map((k) => "<br>" + label(k, 24) + " " + label(num(t.params[k]), 30)).join("");

function importanceFigure() {
  const entries = Object.entries(R.importances ?? {}).reverse();
  if (!entries.length) return null;
  return {
    height: 90 + 38 * entries.length,
    traces: [{ type: "bar", orientation: "h", x: entries.map((e) => e[1]), y: entries.map((_, i) => i), marker: { color: css("completed") }, width: 0.6,
      text: entries.map((e) => percent(e[1])), textposition: "outside", cliponaxis: false, hoverinfo: "skip" }],
    layout: layout({ xaxis: axis("share of importance", { tickformat: ".0%", range: [0, Math.max(...entries.map((e) => e[1])) * 1.15] }),
      yaxis: axis("", { tickvals: entries.map((_, i) => i), ticktext: entries.map((e) => label(e[0], 22)), showgrid: false }) }),
  };
}

function bestFigure() {
  const ends = new Map(D.timeline.map((b) => [b[0], b[3]]));
  const list = done().map((t) => [ends.get(t.trial_id) ?? 0, t]).sort((a, b) => a[0] - b[0]);
  if (!list.length) return null;
  const gpus = onGpus() ? Math.max(...R.trials.map((t) => t.gpus)) : 1;
  const held = R.cost.slots * gpus;
  const [scale, unit] = timeUnit(list.at(-1)[0] * held);
  let best = null;
  const counts = (t) => !t.violation || R.bounds.nearest; // a trial over the bounds is not the best one, unless all are
  const nearer = (t, other) => (t.violation || 0) - (other.violation || 0);
  const ahead = (t, other) => nearer(t, other) < 0 || (nearer(t, other) === 0 && better(t.objective, other.objective));
  const line = list.map(([, t]) => (best = counts(t) && (best === null || ahead(t, best)) ? t : best)?.objective ?? null);
  const x = list.map(([time]) => (time * held) / scale);
  return {
    traces: [
      { type: "scatter", mode: "markers", name: "completed trial", x, y: list.map(([, t]) => t.objective), customdata: list.map(([, t]) => t.trial_id), text: list.map(([, t]) => about(t)),
        marker: { color: css("completed"), size: 7, opacity: 0.55 }, hovertemplate: "%{text}<extra></extra>" },
      { type: "scatter", mode: "lines", name: "best so far", x, y: line, line: { shape: "hv", color: css("ink"), width: 2 }, hoverinfo: "skip" },
    ],
    layout: layout({ xaxis: axis((onGpus() ? "GPU" : "slot") + " time held (" + unit + ")", { rangemode: "tozero" }), yaxis: axis(objectiveAxis()) }),
  };
}

// What a further trial was expected to gain at each check of search.enough, and the gain that was asked for.
function enoughFigure() {
  const known = (R.enough?.checks ?? []).filter(([, expected]) => isNumber(expected));
  if (known.length < 2) return null;
  const asked = R.enough.gain, unit = R.objective.task ? label(R.objective.name) : "nats";
  return {
    traces: [{ type: "scatter", mode: "lines+markers", name: "expected gain", x: known.map(([n]) => n), y: known.map(([, expected]) => expected), line: { color: css("completed"), width: 2 }, marker: { color: css("completed"), size: 7 },
      text: known.map(([n, expected]) => n + " completed trials<br>expected gain " + num(expected, 3)), hovertemplate: "%{text}<extra></extra>" }],
    layout: layout({ xaxis: axis("completed trials", { tick0: 0, dtick: Math.max(1, Math.ceil((known.at(-1)[0] - known[0][0]) / 8)) }), yaxis: axis("expected gain of a further trial (" + unit + ")", { rangemode: "tozero" }), showlegend: false,
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: asked, y1: asked, line: { color: css("stopped"), width: 1.5, dash: "dash" } }],
      annotations: [{ xref: "paper", x: 0, xanchor: "left", y: asked, yanchor: "bottom", yshift: 3, text: "enough " + num(asked), showarrow: false, bgcolor: css("card"), font: { size: 11, color: css("muted") } }] }),
  };
}

// Good values have the colours at the beginning of the ramp, whichever way the objective is good.
const objectiveRamp = () => (R.objective.mode === "max" ? ramp().map(([at], i, all) => [at, all[all.length - 1 - i][1]]) : ramp());

function colorbar(values) {
  return { color: values, colorscale: objectiveRamp(), showscale: true, colorbar: { title: { text: label(R.objective.name), side: "right", font: { size: 11.5 } }, thickness: 10, outlinewidth: 0, tickfont: { size: 10.5 } } };
}

// The colour scale leaves out the worst 15%, else one poor trial makes all others look alike.
function colorRange(values) {
  const sorted = [...values].sort((a, b) => (better(b, a) ? 1 : better(a, b) ? -1 : 0));
  const ends = [sorted[0], sorted[Math.floor(0.85 * (sorted.length - 1))]];
  return { cmin: Math.min(...ends), cmax: Math.max(...ends) };
}

function mapFigure() {
  const keys = varied();
  const x = ["learning_rate", ...keys.filter(isNumeric), ...keys].find((k) => keys.includes(k));
  const y = ["batch_size", ...keys.filter(isNumeric), ...keys].find((k) => keys.includes(k) && k !== x);
  const list = done();
  if (!x || !y || !list.length) return null;
  $("t-map").textContent = clip(x, 30) + " × " + clip(y, 30);
  const ax = paramAxis(x, label(x, 30)), ay = paramAxis(y, label(y, 30));
  const point = (t, a) => (a.jitter ? a.at(t) + shift(t, a.jitter) : a.at(t));
  const others = R.trials.filter((t) => t.rank === null && t.replicate_of === null);
  const values = list.map((t) => t.objective);
  const cross = { type: "scatter", mode: "markers", name: "not completed", x: others.map((t) => point(t, ax)), y: others.map((t) => point(t, ay)), customdata: others.map((t) => t.trial_id),
    text: others.map(about), hovertemplate: "%{text}<extra></extra>", marker: { symbol: "x-thin", size: others.length > 300 ? 4 : 6, line: { width: others.length > 300 ? 1 : 1.3, color: css("muted") }, opacity: others.length > 300 ? 0.4 : 0.7 } };
  const dots = { type: "scatter", mode: "markers", name: "completed", x: list.map((t) => point(t, ax)), y: list.map((t) => point(t, ay)), customdata: list.map((t) => t.trial_id),
    text: list.map(about), hovertemplate: "%{text}<extra></extra>", marker: { ...colorbar(values), ...colorRange(values), size: dot(list.length, 11), line: { width: list.length > 200 ? 0.3 : 0.7, color: css("card") } } };
  const first = winnerOf(list);
  const best = { type: "scatter", mode: "markers", name: "winner", x: [point(first, ax)], y: [point(first, ay)], customdata: [first.trial_id], hoverinfo: "skip",
    marker: { symbol: "circle-open", size: 19, color: css("ink"), line: { width: 2.2 } } };
  const cells = list.length >= 6 ? [heat(list, ax, ay, colorRange(values))] : [];
  return { traces: [...cells, cross, dots, best], layout: layout({ xaxis: { ...ax.axis, showgrid: !cells.length }, yaxis: { ...ay.axis, showgrid: !cells.length } }) };
}

function slicesFigure() {
  const keys = varied();
  const list = done();
  if (!keys.length || !list.length) return null;
  const across = isPhone() ? 1 : Math.min(keys.length, 4);
  const down = Math.ceil(keys.length / across);
  const first = winnerOf(list);
  const figure = { traces: [], height: 70 + 260 * down, layout: layout({ showlegend: false, grid: { rows: down, columns: across, pattern: "independent", ygap: 0.32, xgap: isPhone() ? 0 : 0.09 } }) };
  keys.forEach((key, i) => {
    const n = i ? String(i + 1) : "";
    const a = paramAxis(key, label(key, 28), 5);
    figure.traces.push({ type: "scatter", mode: "markers", xaxis: "x" + n, yaxis: "y" + n, x: list.map((t) => a.at(t) + (a.jitter ? shift(t, a.jitter) : 0)), y: list.map((t) => t.objective),
      customdata: list.map((t) => t.trial_id), text: list.map(about), hovertemplate: "%{text}<extra></extra>",
      marker: { color: list.map((t) => css(t === first ? "ink" : "completed")), size: list.map((t) => (t === first ? 10 : dot(list.length, 6.5))), line: { width: 0 }, opacity: list.map((t) => (t === first ? 1 : 0.6)) } });
    figure.layout["xaxis" + n] = { ...a.axis };
    figure.layout["yaxis" + n] = axis(i % across === 0 ? label(R.objective.name) : "", { matches: i ? "y" : undefined, showticklabels: i % across === 0 });
  });
  return figure;
}

function parallelFigure() {
  const keys = varied();
  const list = done().slice(0, 400);
  if (keys.length < 2 || list.length < 2) return null;
  const columns = [...keys.map((key) => ({ name: key, ...scaleOf(key) })), { name: R.objective.name, ...objectiveScale(list) }];
  const classes = list.length < 10 ? 2 : 4;
  const traces = [];
  for (let c = classes - 1; c >= 0; c--) {
    const part = list.filter((t) => Math.min(classes - 1, Math.floor(((t.rank - 1) / list.length) * classes)) === c);
    const color = ramp()[Math.round((c / Math.max(1, classes - 1)) * 3)][1];
    const trace = { type: "scatter", mode: "lines", name: c === 0 ? "best " + percent(1 / classes) : "", showlegend: false, x: [], y: [], customdata: [], text: [], line: { color, width: c === 0 ? 1.8 : 1 }, opacity: c === 0 ? 0.9 : 0.5, hovertemplate: "%{text}<extra></extra>" };
    for (const t of part) {
      columns.forEach((column, i) => { trace.x.push(i); trace.y.push(column.at(t) + (column.discrete ? shift(t, 0.025) : 0)); trace.customdata.push(t.trial_id); trace.text.push(about(t)); });
      trace.x.push(null); trace.y.push(null); trace.customdata.push(null); trace.text.push("");
    }
    traces.push(trace);
  }
  const first = winnerOf(list);
  traces.push({ type: "scatter", mode: "lines+markers", name: "winner", showlegend: false, x: columns.map((_, i) => i), y: columns.map((c) => c.at(first)), customdata: columns.map(() => first.trial_id),
    line: { color: css("ink"), width: 2.6 }, marker: { size: 7 }, hovertemplate: about(first) + "<extra></extra>" });
  const ticks = columns.flatMap((column, i) => column.ticks.map(([at, text]) => ({ x: i, y: at, text, showarrow: false, xanchor: "left", xshift: 6, font: { size: isPhone() ? 9.5 : 11, color: css("muted") }, bgcolor: css("card"), opacity: 0.92 })));
  const lines = columns.map((_, i) => ({ type: "line", x0: i, x1: i, y0: -0.04, y1: 1.04, line: { color: css("muted"), width: 1 } }));
  return { traces, layout: layout({ annotations: ticks, shapes: lines, margin: { l: 30, r: isPhone() ? 46 : 62, t: 12, b: 44 },
    xaxis: axis("", { tickvals: columns.map((_, i) => i), ticktext: columns.map((c) => label(c.name, isPhone() ? 11 : 24)), showgrid: false, zeroline: false, range: [-0.12, columns.length - 0.95] }),
    yaxis: { visible: false, range: [-0.08, 1.08] } }) };
}

function scaleOf(key) {
  const numeric = isNumeric(key);
  const labels = [...new Set(R.trials.map((t) => t.params[key]).map((v) => (numeric ? v : label(v, 18))))].sort((a, b) => (numeric ? a - b : a < b ? -1 : 1));
  if (isRange(key, labels)) {
    const f = isLog(key) ? Math.log : (v) => v;
    const low = f(labels[0]), high = f(labels.at(-1));
    const back = isLog(key) ? Math.exp : (v) => v;
    return { at: (t) => (f(t.params[key]) - low) / (high - low), ticks: [0, 0.5, 1].map((p) => [p, num(back(low + p * (high - low)), 2)]), discrete: false };
  }
  const at = (v) => (labels.length > 1 ? labels.indexOf(v) / (labels.length - 1) : 0.5);
  return { at: (t) => at(numeric ? t.params[key] : label(t.params[key], 18)), ticks: labels.map((v) => [at(v), numeric ? num(v) : v]), discrete: true };
}

function objectiveScale(list) {
  const values = list.map((t) => t.objective);
  const low = Math.min(...values), high = Math.max(...values);
  const width = high > low ? high - low : 1;
  return { at: (t) => (t.objective - low) / width, ticks: [0, 0.5, 1].map((p) => [p, num(low + p * width, 4)]), discrete: false };
}

const warm = () => (isDark() ? ["#4a3a2a", "#a8622e", "#ffd27a"] : ["#f7d58b", "#d0762c", "#6e1f0c"]).map((c, i) => [i / 2, c]);

// Ticks of a colour bar over log10 of these values, labelled with the values themselves.
function decades(values) {
  const { tickvals, ticktext } = logAxis("", values);
  return { tickvals: tickvals.map(Math.log10), ticktext };
}

// Lines at the limit of a bounded loss or score and at the base model's.
function boundLines(bound) {
  const more = isNumber(bound?.at_least) || Boolean(bound?.below_base); // is better: where the front rises, its other end is free
  const left = more === (R.objective.mode !== "max");
  const lines = [[bound?.limit, "bound", "stopped"], [bound?.base, "base model", "muted"]].filter(([y]) => isNumber(y));
  return {
    shapes: lines.map(([y, , color]) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: css(color), width: 1.5, dash: "dash" } })),
    annotations: lines.map(([y, text], i) => ({ xref: "paper", x: i ? 0.6 : left ? 0 : 1, xanchor: !i && left ? "left" : "right", y, yanchor: "bottom", yshift: 3, text: text + " " + num(y), showarrow: false, font: { size: 11, color: css("muted") } })),
  };
}

// Heading and note of the chart, which depend on what it shows: a task by its name, or null for a validation set.
function nameParetoChart(task, sign) {
  const card = document.querySelector('[data-chart="pareto"]');
  if (!card) return;
  const name = R.objective.task ? label(R.objective.name, 60) : "Validation loss";
  const ofLosses = R.objective.task ? name + " against a validation loss" : "In-domain loss against general loss";
  card.querySelector("h3").textContent = task === null ? ofLosses : name + " against " + label(task, 100);
  card.querySelector("p").textContent = (sign < 0 ? "Up" : "Down") + " and " + (R.objective.mode === "max" ? "right" : "left") + " is better on both. The line joins the trials that none beats on both.";
}

function paretoFigure() {
  const list = done();
  const amount = (t, name) => t.validation[name]?.loss ?? t.tasks[name]?.value;
  const names = [...new Set(list.flatMap((t) => [...Object.keys(t.validation), ...Object.keys(t.tasks)]))];
  const differs = (name) => list.some((t) => isNumber(amount(t, name)) && Math.abs(amount(t, name) - t.objective) > 1e-9);
  const bounded = (R.bounds?.sets ?? []).map((b) => b.set);
  const other = bounded.find((name) => names.includes(name) && differs(name)) ?? names.find((name) => D.unweighted_sets.includes(name) && differs(name)) ?? names.find(differs);
  const bound = R.bounds?.sets.find((b) => b.set === other);
  if (!other) return null;
  const points = list.filter((t) => isNumber(amount(t, other)));
  if (points.length < 2) return null;
  const y = (t) => amount(t, other);
  const sign = bound && (isNumber(bound.at_least) || bound.below_base) ? -1 : 1; // -1 where more is better
  const task = points.some((t) => !(other in t.validation));
  nameParetoChart(task ? other + (bound?.metric ? " " + bound.metric : "") : null, sign);
  const front = [];
  let best = Infinity;
  const ahead = (a, b) => (better(a.objective, b.objective) ? -1 : better(b.objective, a.objective) ? 1 : sign * (y(a) - y(b)));
  for (const t of [...points].sort(ahead)) if (sign * y(t) < best) { best = sign * y(t); front.push(t); }
  const key = varied().includes("learning_rate") && isLog("learning_rate") ? "learning_rate" : null;
  const shaded = key ? { color: points.map((t) => Math.log10(t.params[key])), colorscale: warm(), showscale: true, colorbar: { ...decades(points.map((t) => t.params[key])), title: { text: "learning rate", side: "right", font: { size: 11.5 } }, thickness: 10, outlinewidth: 0, tickfont: { size: 10.5 } } } : { color: css("completed") };
  return {
    traces: [
      { type: "scatter", mode: "lines", name: "Pareto front", x: front.map((t) => t.objective), y: front.map(y), line: { color: css("ink"), width: 1.6, shape: "hv" }, hoverinfo: "skip" },
      { type: "scatter", mode: "markers", name: "completed trial", x: points.map((t) => t.objective), y: points.map(y), customdata: points.map((t) => t.trial_id), text: points.map((t) => about(t) + "<br>" + label(other, 24) + " " + num(y(t), 5)),
        marker: { ...shaded, size: dot(points.length, 10), line: { width: points.length > 200 ? 0 : 0.7, color: css("card") } }, hovertemplate: "%{text}<extra></extra>" },
    ],
    layout: layout({ xaxis: axis("objective: " + objectiveAxis()), yaxis: axis(label(other, 24) + (task ? (bound?.metric ? " " + bound.metric : "") : " loss (nats per target token)")), ...boundLines(bound) }),
  };
}
