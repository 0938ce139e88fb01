"use strict";
// Shared by all parts of the page: unpacking, number formats, theme and Plotly's layout.
// Text of a trial reaches the page only through textContent, or through `label` where Plotly reads markup.

const $ = (id) => document.getElementById(id);
const STATUSES = ["completed", "stopped", "paused", "diverged", "failed", "interrupted", "running"];
let D = null; // the data of the page
let R = null; // its report
const byId = new Map(); // trial id -> {record, curve, place}

async function unpack(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}

const isNumber = (v) => typeof v === "number" && Number.isFinite(v);

const DIRECTION_MARKS = /[\u202a-\u202e\u2066-\u2069]/g; // they change the direction of all text after them

function clip(text, limit = 60) {
  text = String(text).replace(DIRECTION_MARKS, "");
  return text.length > limit ? text.slice(0, limit - 1) + "…" : text;
}

function plain(value) {
  if (value === null || value === undefined) return "—";
  if (typeof value !== "object") return String(value);
  return Array.isArray(value) ? JSON.stringify(value) : Object.entries(value).map(([name, part]) => plain(part) + " " + name).join(", ");
}

function num(value, digits = 4) {
  if (!isNumber(value)) return clip(plain(value), 80);
  if (Number.isInteger(value)) return Math.abs(value) >= 10000 ? value.toLocaleString("en-US") : String(value);
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

function duration(s) {
  if (!isNumber(s)) return "—";
  if (s > 0 && s < 0.095) return Math.max(1, Math.round(1000 * s)) + " ms";
  if (s < 100) return (s < 10 ? s.toFixed(1) : s.toFixed(0)) + " s";
  if (s < 5400) return (s / 60).toFixed(1) + " min";
  if (s < 172800) return Math.floor(s / 3600) + " h " + String(Math.floor((s % 3600) / 60)).padStart(2, "0") + " min";
  return (s / 86400).toFixed(1) + " d";
}

// How long ago, roughly.
function ago(seconds) {
  if (seconds < 90) return "just now";
  return seconds < 5400 ? Math.round(seconds / 60) + " min ago" : Math.round(seconds / 3600) + " h ago";
}

// The objective's name, the same with its unit, and whether a value is better than another one.
const objectiveName = () => clip(R.objective.name, 60);
const objectiveAxis = () => label(R.objective.name, 60) + (R.objective.unit ? " (" + R.objective.unit + ")" : "");
const better = (a, b) => (R.objective.mode === "max" ? a > b : a < b);
const showObjective = (v) => (R.objective.task ? num(v) : v.toFixed(4));

const percent = (v) => (isNumber(v) ? Math.round(100 * v) + "%" : "—");

// Text for Plotly, which interprets some markup.
function label(value, limit = 40) {
  return clip(plain(value).replace(/\s+/g, " "), limit).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function timeUnit(seconds) {
  if (seconds < 300) return [1, "s"];
  if (seconds < 18000) return [60, "min"];
  return seconds < 720000 ? [3600, "h"] : [86400, "days"];
}

// State kept while this tab is open, so that a live page reloads as it was.
const memory = {
  get(key, other) {
    try { return JSON.parse(sessionStorage.getItem("sweepft:" + location.pathname + ":" + key)) ?? other; } catch { return other; }
  },
  set(key, value) {
    try { sessionStorage.setItem("sweepft:" + location.pathname + ":" + key, JSON.stringify(value)); } catch { /* private mode */ }
  },
};

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const isPhone = () => innerWidth < 600;

// Good values are dark on a light page and bright on a dark one, so that they stand out on both.
function ramp() {
  const colors = ["#0d3b66", "#1f6f9c", "#3a9d9b", "#7cc08a", "#c9dfa0"];
  const bright = ["#f4f1a5", "#9ad58c", "#46b09a", "#2f7fa5", "#35527f"];
  return (isDark() ? bright : colors).map((c, i) => [i / 4, c]);
}

const GROUPS = ["s0", "s4", "s2", "s6", "s5", "s1", "s3", "s7"];

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 10, font: { size: isPhone() ? 11 : 12.5, color: css("muted") } },
    gridcolor: css("line"), zerolinecolor: css("line"), linecolor: css("line"), automargin: true,
    tickfont: { size: isPhone() ? 10 : 11.5 }, ...more,
  };
}

// A logarithmic axis over these values, labelled at 1, 2 and 5 times powers of ten where there is room.
function logAxis(title, values, more = {}, room = isPhone() ? 5 : 8) {
  const positive = values.filter((v) => isNumber(v) && v > 0);
  const low = Math.min(...positive.length ? [positive.reduce((a, b) => Math.min(a, b))] : [0.1]);
  const high = positive.length ? positive.reduce((a, b) => Math.max(a, b)) : 1;
  const ticks = (marks) => {
    const found = [];
    for (let e = Math.floor(Math.log10(low)) - 1; e <= Math.ceil(Math.log10(high)); e++) for (const m of marks) found.push(Number((m * 10 ** e).toPrecision(3)));
    return found.filter((v) => v >= low / 1.6 && v <= high * 1.6);
  };
  const options = [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 5], [1, 3], [1]].map(ticks);
  const tickvals = options.find((o) => o.length <= room) ?? options.at(-1);
  return axis(title, { type: "log", tickvals, ticktext: tickvals.map((v) => num(v, 2)), ...more });
}

function layout(more = {}) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("ink") },
    margin: { l: 56, r: 14, t: 10, b: 46 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5 }, bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("ink"), size: 12.5 }, align: "left" },
    ...more,
  };
}

// By default Plotly offers to upload charts; a run's data must stay local.
const CONFIG = {
  displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendDataToCloud"],
};

// Charts are drawn when they come into view, and redrawn when the theme or the width class changes.
const charts = new Map(); // element id -> function that returns {traces, layout}, or null to hide the card
const drawn = new Set();

function chart(id, build) {
  if ($(id)) charts.set(id, build);
}

function draw(id) {
  const node = $(id);
  const figure = charts.get(id)();
  const card = node.closest("[data-chart]");
  if (!figure) {
    if (card) card.hidden = true;
    else node.replaceChildren(make("p", { class: "muted" }, "Nothing to draw yet."));
    return;
  }
  if (figure.height) node.style.height = figure.height + "px";
  Plotly.react(node, figure.traces, figure.layout, { ...CONFIG, displayModeBar: isPhone() ? false : "hover" });
  if (!drawn.has(id)) {
    node.on("plotly_click", (event) => {
      const found = event.points.map((p) => p.customdata).find((c) => byId.has(Array.isArray(c) ? c[0] : c));
      if (found) openTrial(Array.isArray(found) ? found[0] : found);
    });
  }
  drawn.add(id);
}

function redraw() {
  for (const id of drawn) draw(id);
}

function choice(host, text, options, value, change) {
  const select = make("select", { onchange: (e) => change(options[e.target.selectedIndex][0]) });
  for (const [key, shown] of options) select.append(make("option", { selected: key === value }, clip(shown, 50)));
  host.append(make("label", {}, text, " ", select));
}

function check(host, text, value, change) {
  const box = make("input", { type: "checkbox", onchange: (e) => change(e.target.checked) });
  box.checked = value;
  host.append(make("label", {}, box, text));
}

// The light/dark button; charts follow it and the width of the window.
function themeButton() {
  const chosen = memory.get("theme", null);
  if (chosen) document.documentElement.dataset.theme = chosen;
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    memory.set("theme", document.documentElement.dataset.theme);
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let phone = isPhone();
  addEventListener("resize", () => { if (isPhone() !== phone) { phone = isPhone(); redraw(); } });
}
