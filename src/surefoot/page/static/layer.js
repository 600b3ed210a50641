// Keeps the page of a layer up to date: its words and its figures, once a second at most.

import { plots } from "./plots.js";
import { following, renew } from "./renew.js";

const live = document.getElementById("live");
const told = document.getElementById("told");
const redraw = plots(document.getElementById("plots"), (drawn) => {
  document.getElementById("over-time").hidden = !drawn;
});

following([told], async (runs) => {
  live.hidden = !runs.some((run) => run.live);
  await Promise.all([renew(["told"]), redraw()]);
});
