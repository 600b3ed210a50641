// Keeps two runs side by side up to date while either goes on, once a second at most.

import { plots } from "./plots.js";
import { following, renew } from "./renew.js";

const sides = [...document.querySelectorAll("#sides [data-events]")];
const runs = new Map(sides.map((side) => [side.dataset.events, side])); // one, if both are the same
const redraw = plots(document.getElementById("plots"));

following([...runs.values()], async () => {
  await Promise.all([renew(["sides", "differences"]), redraw()]);
});
