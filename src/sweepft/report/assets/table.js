"use strict";
// The ranking: sorted, filtered, and drawn some rows at a time.

const ROWS = 40;
const tableView = { sort: "place", down: false, text: "", hidden: [], limit: ROWS };

function columns() {
  const sets = [...new Set(R.trials.flatMap((t) => Object.keys(t.validation)))];
  const isObjective = (s) => R.trials.every((t) => !isNumber(t.objective) || Math.abs((t.validation[s]?.loss ?? Infinity) - t.objective) < 1e-9);
  const shownSets = sets.filter((s) => !isObjective(s));
  const stderr = (t) => (isNumber(t.objective_stderr) ? " ± " + num(t.objective_stderr, 2) : "");
  const final = (t) => finalists().get(t.trial_id)?.place ?? null;
  return [
    ...(finalists().size ? [{ key: "final", name: "final", n: true, value: final, text: (t) => final(t) ?? (finalists().has(t.trial_id) ? "?" : "—") }] : []),
    { key: "place", name: "rank", n: true, value: order, text: (t) => t.rank ?? "—" },
    { key: "trial_id", name: "trial", value: (t) => t.number, text: (t) => clip(t.trial_id, 40) },
    { key: "status", name: "status", value: (t) => t.status, node: (t) => make("span", { class: "tag tag-" + (STATUSES.includes(t.status) ? t.status : "other") }, clip(t.status, 20)) },
    { key: "objective", name: objectiveName(), n: true, value: (t) => t.objective, text: (t) => (isNumber(t.objective) ? showObjective(t.objective) + stderr(t) : "—") },
    ...(R.bounds ? [{ key: "bounds", name: "bounds", n: true, value: (t) => t.violation, text: (t) => (isNumber(t.violation) ? (t.violation ? "+" + num(t.violation, 3) : "met") : "—") }] : []),
    ...shownSets.map((s) => ({ key: "set:" + s, name: clip(s, 24), n: true, value: (t) => t.validation[s]?.loss ?? null, text: (t) => (isNumber(t.validation[s]?.loss) ? t.validation[s].loss.toFixed(4) : "—") })),
    ...R.swept.map((k) => ({ key: "params:" + k, name: clip(k, 30), n: isNumeric(k), value: (t) => t.params[k] ?? null, text: (t) => num(t.params[k]) })),
    ...R.derived.map((k) => ({ key: "derived:" + k, name: clip(k, 30), n: true, value: (t) => t.derived[k] ?? null, text: (t) => num(t.derived[k]) })),
    { key: "progress", name: "progress", value: (t) => t.progress, node: (t) => make("span", {}, make("span", { class: "progress" }, progressBar(t)), percent(t.progress)) },
    { key: "seconds", name: onGpus() ? "GPU time" : "time", n: true, value: (t) => t.seconds * (onGpus() ? t.gpus : 1), text: (t) => duration(t.seconds * (onGpus() ? t.gpus : 1)) },
    { key: "reason", name: "reason", value: (t) => t.reason, cls: "reason", node: (t) => make("div", {}, clip((t.audited ? "audited · " : "") + (t.reason ?? (t.rank ? "full budget" : "")), 200)) },
  ];
}

// Finalists by trial, in their order.
const finalists = () => new Map((R.finalists?.rows ?? []).map((row) => [row.trial_id, row]));

// Finalists first, in their order; then as in the report: completed trials by objective, the others by progress.
function order(t) {
  const place = [...finalists().keys()].indexOf(t.trial_id);
  return place >= 0 ? place - R.trials.length : byId.get(t.trial_id).place;
}

function progressBar(t) {
  const bar = make("i");
  bar.style.width = Math.round(100 * t.progress) + "%";
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
  const words = tableView.text.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = R.trials.filter((t) => !tableView.hidden.includes(t.status) && words.every((w) => searchText(t).includes(w)));
  const column = list.find((c) => c.key === tableView.sort) ?? list[0];
  const known = (t) => column.value(t) !== null && column.value(t) !== undefined;
  const order = kept.map((t, i) => [t, i]).sort(([a, i], [b, j]) => {
    const way = known(a) && known(b) && tableView.down ? -1 : 1; // unknown values stay last either way
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
    const sorted = c.key === tableView.sort ? (tableView.down ? "descending" : "ascending") : "none";
    head.append(make("th", { scope: "col", "aria-sort": sorted, class: c.n ? "n" : "" }, make("button", { type: "button", onclick: () => sortBy(c.key) }, c.name)));
  }
  const found = rows(list);
  const body = document.createDocumentFragment();
  for (const t of found.slice(0, tableView.limit)) {
    const row = make("tr", { tabindex: "0", class: t.trial_id === R.result.winner?.trial_id ? "first" : "", "data-row": t.trial_id, onclick: () => openTrial(t.trial_id), onkeydown: (e) => { if (e.key === "Enter") openTrial(t.trial_id); } });
    for (const c of list) row.append(make("td", { class: (c.n ? "n " : "") + (c.cls ?? "") }, c.node ? c.node(t) : c.text(t)));
    body.append(row);
  }
  if (!found.length) body.append(make("tr", {}, make("td", { colspan: list.length, class: "muted" }, R.trials.length ? "No trial matches the filter." : "No trial yet.")));
  $("trials").tHead.replaceChildren(head);
  $("trials").tBodies[0].replaceChildren(body);
  $("more").hidden = found.length <= tableView.limit;
  $("shown").textContent = found.length > tableView.limit || found.length < R.trials.length ? Math.min(tableView.limit, found.length) + " of " + R.trials.length + " trials shown" : "";
  memory.set("table", { ...tableView, limit: ROWS });
}

function sortBy(key) {
  tableView.down = tableView.sort === key ? !tableView.down : false;
  tableView.sort = key;
  drawTable();
}

function tableControls() {
  Object.assign(tableView, memory.get("table", {}));
  if (!columns().some((c) => c.key === tableView.sort)) tableView.sort = "place";
  $("filter").value = tableView.text;
  $("filter").addEventListener("input", (e) => { tableView.text = e.target.value; tableView.limit = ROWS; drawTable(); });
  $("more").addEventListener("click", () => { tableView.limit += 200; drawTable(); });
  const present = STATUSES.filter((s) => R.counts[s]);
  for (const status of present.length > 1 ? present : []) {
    const chip = make("button", { type: "button", "aria-pressed": String(!tableView.hidden.includes(status)) }, status + " " + R.counts[status]);
    chip.addEventListener("click", () => {
      tableView.hidden = tableView.hidden.includes(status) ? tableView.hidden.filter((s) => s !== status) : [...tableView.hidden, status];
      chip.setAttribute("aria-pressed", String(!tableView.hidden.includes(status)));
      drawTable();
    });
    $("chips").append(chip);
  }
}
