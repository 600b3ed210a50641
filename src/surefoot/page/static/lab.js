// The lab: whatever is chosen is asked for a moment later. The server computes one thing at a time,
// so what is under way is awaited and shown, and then the newest choice is asked for.

import { draw } from "./figures.js";
import { replace } from "./renew.js";

const form = document.getElementById("choices");
const heading = document.getElementById("heading");
const result = document.getElementById("result");
const told = document.getElementById("told");
const numbers = document.getElementById("numbers-part");
const fields = [...form.querySelectorAll("[name]")];
const sliders = [...form.querySelectorAll("input[type=range]")];
const named = (slider) => form.elements[slider.dataset.of];
let asking = null; // what aborts the request that is under way
let timer = 0; // until the choice is asked for, 0 if it has been

// A slider stands where its number is, or in powers of ten.
const place = (slider) => {
  const value = Number(named(slider).value || named(slider).dataset.default);
  const log = slider.dataset.log !== undefined;
  slider.value = log ? Math.log10(value) : value;
  slider.setAttribute("aria-valuetext", String(value));
};
const take = (slider) => {
  const value = Number(slider.value);
  const log = slider.dataset.log !== undefined;
  named(slider).value = log ? Number((10 ** value).toPrecision(2)) : value;
  slider.setAttribute("aria-valuetext", named(slider).value);
};

// Sets the form to what an address chooses.
const fill = (search) => {
  const chosen = new URLSearchParams(search);
  for (const field of fields) {
    field.value = chosen.get(field.name) || field.dataset.default;
    if (!field.value) field.value = field.dataset.default; // an address may hold anything
  }
  sliders.forEach(place);
};

const kept = () => new Map(
  [...told.querySelectorAll("[data-kept]")].map((e) => [e.dataset.kept, e.textContent]),
);

// The numbers that were, below those that are.
const compare = (before) => {
  for (const [key, now] of kept()) {
    const was = before.get(key);
    if (was !== undefined && was !== now) {
      told.querySelector(`[data-was="${key}"]`).textContent = `before: ${was}`;
    }
  }
};

const tell = (words, verdict, card, rest) => {
  if (heading.textContent !== words) heading.textContent = words;
  heading.className = `spoken ${verdict}`;
  document.title = `${words} - Lab - surefoot`;
  const inside = result.contains(document.activeElement);
  replace(told, card);
  replace(numbers, rest);
  // The link that was followed may be gone: the keyboard goes on from the result, not from the top.
  if (inside && !result.contains(document.activeElement)) heading.focus({ preventScroll: true });
};

const plot = async (figures, newest) => {
  for (const element of result.querySelectorAll(".plot")) {
    const figure = figures[element.dataset.figure];
    element.closest("figure").hidden = !figure;
    if (figure) await draw(element, figure);
    if (newest.aborted) return;
  }
};

const mark = (query) => {
  const here = query ? `?${query}` : "";
  let words = "";
  for (const link of document.querySelectorAll(".presets a")) {
    link.removeAttribute("aria-current");
    if (query === null || link.search !== here) continue;
    link.setAttribute("aria-current", "true");
    words = link.title;
    const row = link.closest("ul"); // which is wider than a phone
    if (link.offsetLeft + link.offsetWidth > row.scrollLeft + row.clientWidth) {
      row.scrollLeft = link.offsetLeft - row.clientWidth / 4;
    }
  }
  document.getElementById("preset").textContent = words;
};

const gone = (error) => {
  const words = document.getElementById("gone").innerHTML;
  tell(error === "terminal" ? "This could not be computed" : "No answer", "", words, "");
  return plot({}, { aborted: false });
};

// Asks for the result of a query.
const ask = async (query) => {
  clearTimeout(timer);
  timer = 0;
  asking?.abort();
  const mine = asking = new AbortController();
  result.setAttribute("aria-busy", "true");
  try {
    const reply = await fetch(`${result.dataset.from}?${query}`, { signal: mine.signal });
    if (!reply.headers.get("content-type")?.startsWith("application/json")) throw "terminal";
    const answer = await reply.json();
    const before = kept();
    tell(answer.heading, answer.verdict, answer.told, answer.numbers);
    compare(before);
    mark(answer.query);
    if (answer.query !== null) {
      for (const field of fields) field.removeAttribute("aria-invalid");
      window.history.replaceState(null, "", answer.query ? `/lab?${answer.query}` : "/lab");
    }
    await plot(answer.figures, mine.signal);
  } catch (error) {
    if (!mine.signal.aborted) await gone(error);
  } finally {
    if (asking === mine) {
      asking = null;
      result.setAttribute("aria-busy", "false");
      result.dataset.shown = String(Number(result.dataset.shown ?? 0) + 1);
    }
  }
};

const soon = () => {
  if (asking) timer = setTimeout(soon, 50);
  else ask(chosen());
};
const chosen = () => new URLSearchParams(new FormData(form)).toString();

form.addEventListener("input", ({ target }) => {
  if (target.type === "range") take(target);
  else sliders.filter((slider) => named(slider) === target).forEach(place);
  timer ||= setTimeout(soon, 150);
});
form.addEventListener("submit", (event) => { event.preventDefault(); ask(chosen()); });

// Links that choose: a step in the browser's history each, so that `back` undoes them.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-choose]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  window.history.pushState(null, "", link.href);
  fill(link.search);
  ask(link.search.slice(1));
});
window.addEventListener("popstate", () => {
  fill(window.location.search);
  ask(window.location.search.slice(1));
});

document.getElementById("update").hidden = true;
for (const slider of sliders) { slider.hidden = false; place(slider); }
if (window.matchMedia("(max-width: 900px)").matches) {
  for (const group of [...form.querySelectorAll("details")].slice(1)) group.open = false;
}
ask(window.location.search.slice(1));
