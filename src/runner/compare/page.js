"use strict";
const { figures, configs } = JSON.parse(document.getElementById("figure-data").textContent);
const kept = ["log_scale", "only_cell"];
const shown = new Map(); // name of a figure -> what vegaEmbed returned
const system = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");
const boxes = [...document.querySelectorAll("#series input")];
let mode;
let drawing = Promise.resolve();

const hidden = () => boxes.filter((box) => !box.checked).map((box) => box.value);

async function draw(name, spec) {
  const old = shown.get(name);
  const state = old?.view.getState({ signals: (s) => kept.includes(s), data: () => false });
  old?.finalize();
  const result = await vegaEmbed(document.getElementById("plot-" + name), spec, {
    actions: false,
    config: configs[mode],
    renderer: "canvas",
    tooltip: { theme: mode },
  });
  shown.set(name, result);
  if (state) result.view.setState(state);
  await result.view.signal("hidden", hidden()).runAsync();
}

function paint(isDark) {
  mode = isDark ? "dark" : "light";
  document.documentElement.dataset.theme = mode;
  button.textContent = isDark ? "Light" : "Dark";
  // One after the other: a slow drawing must not end up over a later one.
  drawing = drawing.then(async () => {
    for (const [name, spec] of Object.entries(figures)) await draw(name, spec);
    document.documentElement.dataset.drawn = mode;
  });
}

button.addEventListener("click", () => paint(mode !== "dark"));
system.addEventListener("change", () => paint(system.matches));
document.getElementById("series")?.addEventListener("change", () => {
  for (const { view } of shown.values()) view.signal("hidden", hidden()).runAsync();
});
paint(system.matches);
