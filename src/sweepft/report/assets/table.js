"use strict";
// The ranking: sorted, filtered, and drawn some rows at a time.

const ROWS = 40;
const view = { sort: "place", down: false, text: "", hidden: [], limit: ROWS };

function columns() {
  const sets = [...new Set(R.trials.flatMap((t) => Object.keys(t.validation)))];
  const isObjective = (s) => R.trials.every((t) => !isNumber(t.objective) || Math.abs((t.validation[s]?.loss ?? Infinity) - t.objective) < 1e-9);
  const shownSets = sets.filter((s) => !isObjective(s));
  const stderr = (t) => (isNumber(t.objective_stderr) ? " ± " + num(t.objective_stderr, 2) : "");
  const final = (t) => finalists().get(t.trial_id)?.place ?? null;
  return [
    ...(finalists().size ? [{ key: "final", name: "final", n: true, value: final, text: (t) => final(t) ?? (finalists().has(t.trial_id) ? "?" : "—") }] : []),
    { key: "place", name: "rank", n: true, value: standing, text: (t) => t.rank ?? "—" },
    { key: "trial_id", name: "trial", value: (t) => t.number, text: (t) => clip(t.trial_id, 40) },
    { key: "status", name: "status", value: (t) => t.status, node: (t) => make("span", { class: "tag tag-" + (STATUSES.includes(t.status) ? t.status : "other") }, clip(t.status, 20)) },
    { key: "objective", name: "held-out loss", n: true, value: (t) => t.objective, text: (t) => (isNumber(t.objective) ? t.objective.toFixed(4) + stderr(t) : "—") },
    ...shownSets.map((s) => ({ key: "set:" + s, name: clip(s, 24), n: true, value: (t) => t.validation[s]?.loss ?? null, text: (t) => (isNumber(t.validation[s]?.loss) ? t.validation[s].loss.toFixed(4) : "—") })),
    ...R.swept.map((k) => ({ key: "config:" + k, name: clip(k, 30), n: isNumeric(k), value: (t) => t.params[k] ?? null, text: (t) => num(t.params[k]) })),
    { key: "reach", name: "reach", value: (t) => t.reach, node: (t) => make("span", {}, make("span", { class: "reach" }, reachBar(t)), percent(t.reach)) },
    { key: "seconds", name: onGpus() ? "GPU time" : "time", n: true, value: (t) => t.seconds * (onGpus() ? t.gpus : 1), text: (t) => duration(t.seconds * (onGpus() ? t.gpus : 1)) },
    { key: "reason", name: "why it ended", value: (t) => t.reason, cls: "reason", node: (t) => make("div", {}, clip((t.audited ? "audited · " : "") + (t.reason ?? (t.rank ? "full budget" : "")), 200)) },
  ];
}

// Finalists by trial, in their order.
const finalists = () => new Map((R.finalists?.rows ?? []).map((row) => [row.trial_id, row]));

// Finalists first, in their order; then as the report has them: completed ones by objective, others by reach.
function standing(t) {
  const order = [...finalists().keys()].indexOf(t.trial_id);
  return order >= 0 ? order - R.trials.length : byId.get(t.trial_id).place;
}

function reachBar(t) {
  const bar = make("i");
  bar.style.width = Math.round(100 * t.reach) + "%";
  if (STATUSES.includes(t.status)) bar.style.background = "var(--" + t.status + ")";
  return bar;
}

function compare(a, b) {
  const unknown = (v) => v === null || v === undefined;
  if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
  if (isNumber(a) && isNumber(b)) return a - b;
  return plain(a).localeCompare(plain(b), "en", { numeric: true });
}

function rows(list) {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = R.trials.filter((t) => !view.hidden.includes(t.status) && words.every((w) => searchText(t).includes(w)));
  const column = list.find((c) => c.key === view.sort) ?? list[0];
  const known = (t) => column.value(t) !== null && column.value(t) !== undefined;
  const order = kept.map((t, i) => [t, i]).sort(([a, i], [b, j]) => {
    const way = known(a) && known(b) && view.down ? -1 : 1; // what is not known stays below either way
    return way * compare(column.value(a), column.value(b)) || i - j;
  });
  return order.map(([t]) => t);
}

const texts = new Map();
function searchText(t) {
  if (!texts.has(t)) texts.set(t, [t.trial_id, t.status, t.origin, finalists().has(t.trial_id) ? "finalist" : "", t.reason ?? "", ...Object.entries(t.params).map(([k, v]) => k + "=" + num(v) + " " + plain(v))].join(" ").toLowerCase());
  return texts.get(t);
}

function drawTable() {
  const list = columns();
  const head = make("tr");
  for (const c of list) {
    const sorted = c.key === view.sort ? (view.down ? "descending" : "ascending") : "none";
    head.append(make("th", { scope: "col", "aria-sort": sorted, class: c.n ? "n" : "" }, make("button", { type: "button", onclick: () => sortBy(c.key) }, c.name)));
  }
  const found = rows(list);
  const body = document.createDocumentFragment();
  for (const t of found.slice(0, view.limit)) {
    const row = make("tr", { tabindex: "0", class: t.trial_id === R.answer.winner?.trial_id ? "first" : "", "data-row": t.trial_id, onclick: () => openTrial(t.trial_id), onkeydown: (e) => { if (e.key === "Enter") openTrial(t.trial_id); } });
    for (const c of list) row.append(make("td", { class: (c.n ? "n " : "") + (c.cls ?? "") }, c.node ? c.node(t) : c.text(t)));
    body.append(row);
  }
  if (!found.length) body.append(make("tr", {}, make("td", { colspan: list.length, class: "muted" }, R.trials.length ? "No trial fits the filter." : "No trial yet.")));
  $("trials").tHead.replaceChildren(head);
  $("trials").tBodies[0].replaceChildren(body);
  $("more").hidden = found.length <= view.limit;
  $("shown").textContent = found.length > view.limit || found.length < R.trials.length ? Math.min(view.limit, found.length) + " of " + R.trials.length + " trials shown" : "";
  memory.set("table", { ...view, limit: ROWS });
}

function sortBy(key) {
  view.down = view.sort === key ? !view.down : false;
  view.sort = key;
  drawTable();
}

function tableControls() {
  Object.assign(view, memory.get("table", {}));
  if (!columns().some((c) => c.key === view.sort)) view.sort = "place";
  $("filter").value = view.text;
  $("filter").addEventListener("input", (e) => { view.text = e.target.value; view.limit = ROWS; drawTable(); });
  $("more").addEventListener("click", () => { view.limit += 200; drawTable(); });
  const present = STATUSES.filter((s) => R.counts[s]);
  for (const status of present.length > 1 ? present : []) {
    const chip = make("button", { type: "button", "aria-pressed": String(!view.hidden.includes(status)) }, status + " " + R.counts[status]);
    chip.addEventListener("click", () => {
      view.hidden = view.hidden.includes(status) ? view.hidden.filter((s) => s !== status) : [...view.hidden, status];
      chip.setAttribute("aria-pressed", String(!view.hidden.includes(status)));
      drawTable();
    });
    $("chips").append(chip);
  }
}
