// Keeps two runs side by side up to date while either goes on, once a second at most.

import { plots } from "./plots.js";
import { following, renew } from "./renew.js";

const sides = [...document.querySelectorAll("#sides [data-events]")];
const redraw = plots(document.getElementById("plots"));

following([...new Set(sides.map((side) => side.dataset.events))], async () => {
  await Promise.all([renew(["sides", "differences"]), redraw()]);
});
