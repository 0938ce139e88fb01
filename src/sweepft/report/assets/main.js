"use strict";
// Builds the page: unpacks the data, draws the table first and each chart when it comes into view.

async function begin() {
  D = JSON.parse(await unpack("data"));
  R = D.report;
  STATUSES.push(...Object.keys(R.counts).filter((s) => !STATUSES.includes(s))); // statuses of a later version
  R.trials.forEach((record, i) => byId.set(record.trial_id, { record, curve: D.curves[i], place: i }));
  Object.assign(state, memory.get("curves", {}));
  if (!yAxes().some(([k]) => k === state.y)) state.y = "l";
  if (state.color !== "status" && !R.swept.includes(state.color)) state.color = "status";
  tableControls();
  drawTable();
  curveControls();
  signalControls();
  document.body.dataset.ready = "table";
  document.body.dataset.table = Math.round(performance.now());
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.head.append(script);
  for (const [id, build] of [["c-curves", curvesFigure], ["c-signals", signalsFigure], ["c-gantt", ganttFigure], ["c-importance", importanceFigure], ["c-best", bestFigure], ["c-enough", enoughFigure],
    ["c-map", mapFigure], ["c-pareto", paretoFigure], ["c-slices", slicesFigure], ["c-parallel", parallelFigure]]) chart(id, build);
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) { seen.unobserve(entry.target); draw(entry.target.id); }
  }, { rootMargin: "300px" });
  for (const id of charts.keys()) seen.observe($(id));
  openLinked();
  document.body.dataset.ready = "all";
  document.body.dataset.milliseconds = Math.round(performance.now());
}

function openLinked() {
  const wanted = location.hash.match(/^#trial=(.*)$/);
  if (!wanted) return;
  try { openTrial(decodeURIComponent(wanted[1])); } catch { /* a broken link opens nothing */ }
}

addEventListener("hashchange", openLinked);

document.addEventListener("click", async (event) => {
  const trial = event.target.closest("[data-trial]");
  if (trial) openTrial(trial.dataset.trial);
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    try { await navigator.clipboard.writeText(copy.dataset.copy); copy.textContent = "Copied"; } catch { prompt("Copy:", copy.dataset.copy); }
  }
  if (event.target === $("trial")) $("trial").close(); // a click outside the sheet
});

$("trial").addEventListener("close", () => {
  charts.delete("c-trial");
  drawn.delete("c-trial");
  history.replaceState(null, "", location.pathname + location.search);
});

themeButton();

const sections = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((e) => e.isIntersecting)) {
    for (const link of document.querySelectorAll("#nav a")) link.classList.toggle("here", link.hash === "#" + entry.target.id);
  }
}, { rootMargin: "-20% 0px -70% 0px" });
for (const section of document.querySelectorAll("main > section")) sections.observe(section);

// A live page reloads itself, but not while the reader is using it.
let touched = 0;
for (const kind of ["pointerdown", "keydown", "wheel", "touchmove"]) addEventListener(kind, () => { touched = Date.now(); }, { passive: true });

function live() {
  const showAge = () => { $("fresh").textContent = "updated " + ago(Date.now() / 1000 - R.generated); };
  showAge();
  setInterval(() => {
    showAge();
    if (!document.hidden && !$("trial").open && Date.now() - touched > 10000) location.reload();
  }, 1000 * D.refresh);
}

// The browser restores the scroll position of a reloaded page before the table is drawn: restore it again.
function restoreScroll() {
  if (performance.getEntriesByType("navigation")[0]?.type === "reload") scrollTo({ top: memory.get("scroll", 0), behavior: "instant" });
  addEventListener("pagehide", () => memory.set("scroll", scrollY));
}

begin().then(() => {
  restoreScroll();
  if (D.refresh) live();
}).catch((error) => {
  $("problem").hidden = false;
  $("problem").textContent = typeof DecompressionStream === "undefined"
    ? "This page requires a browser from 2023 or later. The same numbers are in ranked.csv and report.md beside it."
    : "The page could not be drawn: " + error + ". The same numbers are in ranked.csv and report.md beside it.";
  document.body.dataset.ready = "failed";
  console.error(error);
});
