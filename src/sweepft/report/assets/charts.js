"use strict";
// Charts of how trials went: learning curves, early signals, slots over time.

const state = { y: "l", x: "x", color: "status", logx: false, logy: false, smooth: true, metric: "objective", cohort: "all" };

const onGpus = () => R.cost.unit === "gpu_seconds";
const xAxes = () => [["x", "training samples"], ["s", "optimizer steps"], ["t", (onGpus() ? "GPU" : "slot") + " time in training"]];

function yAxes() {
  const sets = new Set();
  for (const { curve } of byId.values()) for (const e of curve.e) for (const name of Object.keys(e[4])) sets.add(name);
  const several = sets.size > 1 ? [...sets].map((name) => ["e:" + name, "validation loss: " + name]) : [];
  return [["l", "training loss"], ["e", objectiveName()], ...several, ["g", "gradient norm"], ["r", "learning rate"]];
}

const UNITS = { l: "training loss (nats per target token)", g: "gradient norm (L2, before clipping)", r: "learning rate" };
const unitOf = (y) => UNITS[y] ?? (y === "e" ? objectiveAxis() : "validation loss (nats per target token, " + label(y.slice(2)) + ")");

function series(curve, y, x) {
  if (!y.startsWith("e")) return [curve[x], curve[y]];
  const column = { s: 0, x: 1, t: 2 }[x];
  const set = y.slice(2);
  return [curve.e.map((e) => e[column]), curve.e.map((e) => (set ? e[4][set] ?? null : e[3]))];
}

// Mean over a sliding twentieth of the budget; ends and gaps are averaged over the values there are.
function smooth(ys, samples) {
  const half = 0.025 * R.budget_samples;
  let from = 0, to = 0, sum = 0, count = 0;
  return ys.map((v, i) => {
    while (to < ys.length && samples[to] <= samples[i] + half) { if (isNumber(ys[to])) { sum += ys[to]; count++; } to++; }
    while (samples[from] < samples[i] - half) { if (isNumber(ys[from])) { sum -= ys[from]; count--; } from++; }
    return isNumber(v) && count ? sum / count : v;
  });
}

const shown = ({ curve, record }) => {
  const [xs, ys] = series(curve, state.y, state.x);
  const gpus = state.x === "t" && onGpus() ? record.gpus : 1;
  return [gpus === 1 ? xs : xs.map((v) => v * gpus), state.smooth && (state.y === "l" || state.y === "g") ? smooth(ys, curve.x) : ys];
};

// Groups of trials of one colour: by status, or by a swept hyperparameter (numbers with many values in five classes).
function groups(key) {
  if (key === "status") {
    return STATUSES.map((s) => ({ name: s, color: css(s), trials: R.trials.filter((t) => t.status === s) })).filter((g) => g.trials.length);
  }
  const values = R.trials.map((t) => t.params[key]);
  const distinct = [...new Set(values.map(plain))];
  if (distinct.length <= 8) {
    const numeric = values.every(isNumber);
    distinct.sort((a, b) => (numeric ? a - b : a < b ? -1 : 1));
    return distinct.map((v, i) => ({
      name: v, color: numeric ? shade(i / Math.max(1, distinct.length - 1)) : css(GROUPS[i]),
      trials: R.trials.filter((t) => plain(t.params[key]) === v),
    }));
  }
  if (!values.every(isNumber)) {
    return [{ name: "all", color: css("completed"), trials: R.trials }];
  }
  const sorted = [...values].sort((a, b) => a - b);
  const cuts = [0, 1, 2, 3, 4, 5].map((q) => sorted[Math.min(sorted.length - 1, Math.floor((q * sorted.length) / 5))]);
  return [0, 1, 2, 3, 4].map((q) => ({
    name: num(cuts[q], 2) + " – " + num(cuts[q + 1], 2), color: shade(q / 4),
    trials: R.trials.filter((t) => t.params[key] >= cuts[q] && (q === 4 || t.params[key] < cuts[q + 1])),
  }));
}

function shade(at) {
  const stops = isDark() ? ["#5b8def", "#58c791", "#f0c265", "#ff8f6b"] : ["#2451a4", "#2b8f7a", "#c99524", "#c2452d"];
  return stops[Math.min(3, Math.round(at * 3.49 - 0.49 < 0 ? 0 : at * 3))];
}

function curvesFigure() {
  const { x, y, logx, logy } = state;
  const [scale, unit] = x === "t" ? timeUnit(Math.max(0, ...[...byId.values()].map(({ curve, record }) => (curve.t.at(-1) ?? 0) * (onGpus() ? record.gpus : 1)))) : [1, ""];
  const many = R.trials.length > 40;
  const traces = [];
  const heights = [];
  const stops = { x: [], y: [], customdata: [], text: [] };
  const winner = R.result.winner?.trial_id;
  for (const group of groups(state.color)) {
    const trace = {
      type: "scatter", mode: y.startsWith("e") ? "lines+markers" : "lines", name: label(group.name, 24) + " (" + group.trials.length + ")",
      x: [], y: [], customdata: [], text: [], line: { color: group.color, width: many ? 1 : 1.4 }, marker: { size: many ? 3 : 5 },
      opacity: R.trials.length > 300 ? 0.35 : many ? 0.55 : 0.8, hovertemplate: "<b>%{text}</b><br>%{x:.6~g}, %{y:.5~g}<extra></extra>",
    };
    for (const t of group.trials) {
      const [xs, ys] = shown(byId.get(t.trial_id));
      const name = label(t.trial_id, 24);
      for (let i = 0; i < xs.length; i++) {
        trace.x.push(xs[i] / scale); trace.y.push(ys[i]); trace.customdata.push(t.trial_id); trace.text.push(name);
        if (isNumber(ys[i]) && i >= xs.length * 0.02) heights.push(ys[i]);
      }
      trace.x.push(null); trace.y.push(null); trace.customdata.push(null); trace.text.push("");
      if (t.status !== "completed" && t.status !== "running" && xs.length) {
        const last = ys.findLastIndex(isNumber);
        if (last >= 0) { stops.x.push(xs[last] / scale); stops.y.push(ys[last]); stops.customdata.push(t.trial_id); stops.text.push(name + ": " + label(t.reason ?? t.status, 90)); }
      }
    }
    traces.push(trace);
  }
  if (stops.x.length) {
    traces.push({ type: "scatter", mode: "markers", name: "stopped or failed", ...stops, hovertemplate: "%{text}<extra></extra>",
      marker: { symbol: "x-thin", size: R.trials.length > 300 ? 3 : many ? 5 : 8, opacity: R.trials.length > 300 ? 0.25 : 1, line: { width: R.trials.length > 300 ? 1 : 1.5, color: css("muted") } } });
  }
  if (winner) {
    const [xs, ys] = shown(byId.get(winner));
    traces.push({ type: "scatter", mode: "lines", name: "winner " + label(winner, 16), x: xs.map((v) => v / scale), y: ys, customdata: xs.map(() => winner),
      line: { color: css("ink"), width: 2.4 }, hovertemplate: "<b>winner</b><br>%{x:.6~g}, %{y:.5~g}<extra></extra>" });
  }
  const xTitle = xAxes().find(([k]) => k === x)[1] + (unit ? " (" + unit + ")" : "");
  const range = robust(heights, logy);
  return { traces, layout: layout({ xaxis: logx ? logAxis(xTitle, traces.flatMap((t) => t.x)) : axis(xTitle, { rangemode: "tozero" }),
    yaxis: logy ? logAxis(unitOf(y), range ? range.map((v) => 10 ** v) : heights, range && { range }) : axis(unitOf(y), range && { range }) }) };
}

// Leaves out the largest hundredth, so that one divergence does not flatten all others.
function robust(values, log) {
  const sorted = values.filter((v) => !log || v > 0).sort((a, b) => a - b);
  if (sorted.length < 3) return null;
  const low = sorted[0], high = sorted[Math.floor(0.99 * (sorted.length - 1))];
  if (!(high > low)) return null;
  if (log) { const pad = 0.05 * Math.log10(high / low); return [Math.log10(low) - pad, Math.log10(high) + pad]; }
  const pad = 0.06 * (high - low);
  return [low - pad, high + pad];
}

function curveControls() {
  const host = $("curve-controls");
  const update = (key) => (value) => { state[key] = value; memory.set("curves", state); draw("c-curves"); };
  choice(host, "Show", yAxes(), state.y, update("y"));
  choice(host, "against", xAxes(), state.x, update("x"));
  choice(host, "coloured by", [["status", "status"], ...R.swept.map((k) => [k, k])], state.color, update("color"));
  check(host, "smooth", state.smooth, update("smooth"));
  check(host, "log x", state.logx, update("logx"));
  check(host, "log y", state.logy, update("logy"));
}

const SIGNALS = { objective: "objective at the rung", grad_norm: "gradient norm", loss_drop: "drop of training loss", loss: "training loss" };

function signalsFigure() {
  const rows = R.signals.filter((s) => s.metric === state.metric && s.cohort === state.cohort);
  if (!rows.length) return null;
  const rungs = [...new Set(rows.map((s) => s.rung))].sort((a, b) => a - b);
  const names = Object.keys(SIGNALS).filter((s) => rows.some((r) => r.signal === s));
  const traces = rungs.map((rung, i) => {
    const here = rows.filter((s) => s.rung === rung);
    const offset = (i - (rungs.length - 1) / 2) * Math.min(0.2, 0.7 / rungs.length);
    return {
      type: "scatter", mode: "markers", name: percent(rung) + " of the budget",
      x: here.map((s) => s.rho), y: here.map((s) => names.indexOf(s.signal) - offset),
      error_x: { type: "data", symmetric: false, array: here.map((s) => s.high - s.rho), arrayminus: here.map((s) => s.rho - s.low), thickness: 1.6, width: 4 },
      marker: { size: 9, color: shade(rungs.length > 1 ? i / (rungs.length - 1) : 0) },
      text: here.map((s) => SIGNALS[s.signal] + " at " + percent(s.rung) + "<br>ρ = " + s.rho.toFixed(2) + " (" + s.low.toFixed(2) + " to " + s.high.toFixed(2) + "), " + s.n + " trials<br>" + s.reading),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  const middle = { type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: css("muted"), width: 1.2, dash: "dot" } };
  const words = isPhone() ? "← high is good · low is good →" : "← high is good · Spearman's ρ with the final " + (state.metric === "objective" ? "objective" : "loss") + " · low is good →";
  return { traces, height: 110 + 78 * names.length, layout: layout({ shapes: [middle], xaxis: axis(words, { range: [-1.05, 1.05], zeroline: false }),
    yaxis: axis("", { tickvals: names.map((_, i) => i), ticktext: names.map((n) => SIGNALS[n].replace(" of ", isPhone() ? "<br>of " : " of ")), range: [-0.6, names.length - 0.4], zeroline: false, showgrid: false }) }) };
}

function signalControls() {
  const host = $("signal-controls");
  if (!host) return;
  const metrics = [...new Set(R.signals.map((s) => s.metric))];
  const update = (key) => (value) => { state[key] = value; draw("c-signals"); };
  choice(host, "Against the final", metrics.map((m) => [m, m === "objective" ? "objective" : m + " loss"]), state.metric, update("metric"));
  if (R.signals.some((s) => s.cohort === "batch_size")) {
    choice(host, "among", [["all", "all completed trials"], ["batch_size", "trials of equal batch size"]], state.cohort, update("cohort"));
  }
}

function ganttFigure() {
  if (!D.timeline.length) return null;
  const slots = [...new Set([...D.timeline, ...D.waits].map((b) => b[1]))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const row = new Map(slots.map((s, i) => [s, i]));
  const shown = slots.some((s) => s.length > 6) ? slots.map((_, i) => String(i)) : slots.map((s) => label(s));
  const each = Math.ceil(slots.length / 24);
  const whole = [...D.timeline, ...D.waits].reduce((end, b) => Math.max(end, b[3]), 0);
  const [scale, unit] = timeUnit(whole);
  const bars = new Map(STATUSES.map((s) => [s, []]));
  for (const bar of D.timeline) {
    const t = byId.get(bar[0]).record;
    bars.get(bar[5])?.push([bar, t]);
  }
  const traces = [...bars].filter(([, list]) => list.length).map(([status, list]) => ({
    type: "bar", orientation: "h", name: status, marker: { color: css(status), line: { color: css("card"), width: list.length > 400 ? 0 : 1 } },
    base: list.map(([b]) => b[2] / scale), x: list.map(([b]) => Math.max(0, b[3] - b[2]) / scale), y: list.map(([b]) => row.get(b[1])),
    customdata: list.map(([b]) => b[0]), hovertemplate: "%{text}<extra></extra>", textposition: "none",
    text: list.map(([b, t]) => "<b>" + label(b[0], 24) + "</b> " + b[5] + (t.attempts > 1 ? ", one of " + t.attempts + " attempts" : "") + "<br>" + duration(b[3] - b[2]) + " on slot " + label(b[1], 30) + (t.stop ? "<br>" + label(t.stop.reason, 90) : "")),
  }));
  if (D.waits.length) {
    traces.unshift({ type: "bar", orientation: "h", name: "start-up, idle", marker: { color: css("wait"), line: { width: 0 } },
      base: D.waits.map((w) => w[2] / scale), x: D.waits.map((w) => (w[3] - w[2]) / scale), y: D.waits.map((w) => row.get(w[1])),
      hovertemplate: "%{text}<extra></extra>", textposition: "none", text: D.waits.map((w) => label(w[0], 24) + " " + duration(w[3] - w[2]) + " of slot " + label(w[1], 30)) });
  }
  const switches = D.timeline.filter((b) => b[6] > whole / 1000); // shorter ones are thinner than a pixel
  if (switches.length) {
    traces.push({ type: "bar", orientation: "h", name: "switch", marker: { color: css("wait"), line: { width: 0 }, pattern: { shape: "/", size: 5, solidity: 0.35, fgcolor: css("muted"), bgcolor: css("wait") } },
      base: switches.map((b) => b[2] / scale), x: switches.map((b) => b[6] / scale), y: switches.map((b) => row.get(b[1])), customdata: switches.map((b) => b[0]),
      hovertemplate: "%{text}<extra></extra>", textposition: "none", text: switches.map((b) => "switch to " + label(b[0], 24) + " " + duration(b[6]) + " of slot " + label(b[1], 30)) });
  }
  const audits = R.trials.filter((t) => t.audited);
  if (audits.length) {
    const ends = audits.map((t) => D.timeline.findLast((b) => b[0] === t.trial_id)).filter(Boolean);
    traces.push({ type: "scatter", mode: "markers", name: "audited", x: ends.map((b) => b[3] / scale), y: ends.map((b) => row.get(b[1])), customdata: ends.map((b) => b[0]),
      marker: { symbol: "diamond", size: audits.length > 60 ? 6 : 8, color: css("card"), line: { color: css("ink"), width: 1.5 } }, hovertemplate: "flagged, trained on as an audit<extra></extra>" });
  }
  const height = Math.max(190, 120 + Math.min(26, 700 / slots.length) * slots.length);
  return { traces, height, layout: layout({ barmode: "overlay", bargap: slots.length > 40 ? 0.1 : 0.28, xaxis: axis("time since the sweep began (" + unit + ")", { rangemode: "tozero" }),
    yaxis: axis("slot", { tickvals: slots.map((_, i) => i).filter((i) => i % each === 0), ticktext: shown.filter((_, i) => i % each === 0), range: [slots.length - 0.5, -0.5], showgrid: false, zeroline: false }) }) };
}
