// The table of layers on the page of a run, asked for again once a second at most.

import { replace } from "./renew.js";

const section = document.getElementById("layers-now");
const part = document.getElementById("layers-part");
let busy = false;
let waiting = false;

export const layers = async () => {
  if (busy) { waiting = true; return; }
  busy = true;
  try {
    const answer = await fetch(section.dataset.from);
    if (answer.ok) replace(part, await answer.text());
    section.hidden = !part.querySelector("tr");
    document.querySelector("[data-filter]")?.dispatchEvent(new Event("input"));
  } finally {
    setTimeout(() => {
      busy = false;
      if (waiting) { waiting = false; layers(); }
    }, 1000);
  }
};
