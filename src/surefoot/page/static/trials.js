// The losses before and after, and what to copy.

import { copyable } from "./copy.js";
import { draw } from "./figures.js";

const from = document.getElementById("trials-of").dataset.from;
const answer = await fetch(from);
const figures = answer.ok ? await answer.json() : {};
for (const [name, figure] of Object.entries(figures)) {
  const place = document.getElementById(`figure-${name}`);
  if (place) await draw(place, figure);
}
copyable();
