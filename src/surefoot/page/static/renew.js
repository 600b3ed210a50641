// Parts of a page that follow live runs: asked for again when there is something new.

import { follow } from "./live.js";

const POINTS = "a, button, summary, input, [tabindex]"; // what can have the focus

// Puts new contents into an element, and leaves open what is open and the focus where it is.
export const replace = (element, contents) => {
  if (element.innerHTML === contents) return;
  const open = [...element.querySelectorAll("details")].map((details) => details.open);
  const at = [...element.querySelectorAll(POINTS)].indexOf(document.activeElement);
  element.innerHTML = contents;
  element.querySelectorAll("details").forEach((details, k) => {
    if (open[k] !== undefined) details.open = open[k];
  });
  if (at >= 0) element.querySelectorAll(POINTS)[at]?.focus({ preventScroll: true });
};

// Puts the newest version of this page's elements of those ids in the place of the old ones.
export const renew = async (ids) => {
  const answer = await fetch(window.location.href);
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ids) {
    const [old, fresh] = [document.getElementById(id), page.getElementById(id)];
    if (old && fresh) replace(old, fresh.innerHTML);
  }
};

// Calls `changed` with how each run stands, by the stream of events that its element names: once a
// second at most, and never while the call before still works. An element also says how its run
// stood when the page was made: until the stream begins something may have been missed.
export const following = (elements, changed) => {
  const runs = elements.map(() => ({ live: false }));
  let busy = false;
  let waiting = false;

  const tell = async () => {
    if (busy) { waiting = true; return; }
    busy = true;
    try { await changed(runs); } finally {
      setTimeout(() => {
        busy = false;
        if (waiting) { waiting = false; tell(); }
      }, 1000);
    }
  };

  elements.forEach((element, k) => {
    let { state } = element.dataset;
    const stop = follow(element.dataset.events, {
      step: (text) => {
        runs[k] = JSON.parse(text);
        if (runs[k].state !== state) tell();
        ({ state } = runs[k]);
        if (runs[k].ended) stop();
      },
      gone: () => { runs[k] = { ...runs[k], live: false }; stop(); tell(); },
    });
  });
};
