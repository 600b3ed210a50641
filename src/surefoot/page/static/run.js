// Keeps the page of a run up to date: numbers with each event, words and figures a moment later.

import { copyable } from "./copy.js";
import { draw, whenNear } from "./figures.js";
import { layers } from "./layers.js";
import { follow } from "./live.js";
import { replace } from "./renew.js";

const now = document.getElementById("now");
const live = document.getElementById("live");
const summary = document.getElementById("summary");
const plots = document.getElementById("plots");
const fresh = new Set(); // figures that show the newest steps
let busy = false;
let waiting = false;

const address = (base, name, values) => {
  const url = new URL(base, window.location.href);
  for (const value of values) url.searchParams.append(name, value);
  return url;
};

// Asks for the figures near the screen that are out of date; while asking, notes who else wants to.
const refresh = async () => {
  if (busy) { waiting = true; return; }
  busy = true;
  try {
    const wanted = [...near].filter((plot) => !fresh.has(plot));
    if (wanted.length) {
      for (const plot of wanted) fresh.add(plot);
      const names = wanted.map((plot) => plot.dataset.figure);
      const answer = await fetch(address(plots.dataset.from, "name", names)).catch(() => null);
      const figures = answer?.ok ? await answer.json() : null;
      if (!figures) for (const plot of wanted) fresh.delete(plot); // what is drawn stays
      for (const plot of figures ? wanted : []) {
        const figure = figures[plot.dataset.figure];
        plot.closest("figure").hidden = !figure;
        if (figure) await draw(plot, figure);
      }
    }
  } finally {
    busy = false;
    if (waiting) { waiting = false; setTimeout(refresh, 150); }
  }
};
const near = whenNear(plots.querySelectorAll(".plot"), refresh);

// A figure that had nothing to show is hidden, and so never near: it is asked for with the rest.
const outdated = () => {
  fresh.clear();
  for (const plot of plots.querySelectorAll("figure[hidden] .plot")) near.add(plot);
  refresh();
};

const judge = async () => {
  const answer = await fetch(summary.dataset.from);
  if (!answer.ok) return;
  replace(summary, await answer.text());
  copyable();
};

// How the run stood when the page was made: until the stream begins something may have been missed.
let { state, verdict } = now.dataset;
const stop = follow(now.dataset.events, {
  step: (text) => {
    const told = JSON.parse(text);
    for (const place of now.querySelectorAll("[data-now]")) {
      place.textContent = told[place.dataset.now] || "-";
    }
    live.hidden = !told.live;
    if (told.state !== state) {
      outdated();
      layers();
    }
    if (told.verdict !== verdict) judge();
    ({ state, verdict } = told);
    if (told.ended) stop();
  },
  gone: () => { live.hidden = true; stop(); },
});
copyable();
