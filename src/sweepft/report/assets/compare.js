"use strict";
// The comparison of sweeps: one chart, the best loss of each against the hours it held.

function bestFigure() {
  const list = R.sweeps.map((s, i) => [s, i]).filter(([s]) => s.best_over_time.length);
  if (!list.length) return null;
  const longest = Math.max(...list.map(([s]) => s.best_over_time.at(-1)[0]));
  const [scale, unit] = longest < 0.1 ? [1 / 3600, "s"] : longest < 3 ? [1 / 60, "min"] : [1, "hours"];
  const gpus = R.sweeps.every((s) => s.cost.unit === "gpu_seconds");
  const traces = list.map(([s, i]) => ({
    type: "scatter", mode: "lines+markers", name: label(s.label, isPhone() ? 20 : 40), x: s.best_over_time.map((c) => c[0] / scale), y: s.best_over_time.map((c) => c[1]),
    line: { shape: "hv", width: s.label === R.best ? 3 : 2, color: css(GROUPS[i % 8]) }, marker: { size: s.best_over_time.map((_, j) => (j === s.best_over_time.length - 1 ? 0 : 6)) },
    text: s.best_over_time.map((c) => "<b>" + label(s.label, 40) + "</b><br>" + label(c[2], 24) + " " + num(c[1], 5)), hovertemplate: "%{text}<extra></extra>",
  }));
  return { traces, layout: layout({ xaxis: axis((gpus ? "GPU" : "slot") + " time held (" + unit + ")", { rangemode: "tozero" }), yaxis: axis("best " + (R.unit === "score" ? label(R.sweeps[0].objective.name) : "validation loss (" + (R.unit === "bits_per_byte" ? "bits per byte" : "nats per target token") + ")")) }) };
}

async function begin() {
  D = JSON.parse(await unpack("data"));
  R = D.report;
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.head.append(script);
  chart("c-best-over-time", bestFigure);
  draw("c-best-over-time");
  themeButton();
  document.body.dataset.ready = "all";
}

begin().catch((error) => {
  $("problem").hidden = false;
  $("problem").textContent = "The chart could not be drawn: " + error + ". The numbers are in comparison.json and comparison.md beside it.";
  document.body.dataset.ready = "failed";
  console.error(error);
});
