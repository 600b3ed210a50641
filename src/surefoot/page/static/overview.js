// Keeps the list of runs up to date, without losing what is ticked or typed.

import { filter } from "./keyboard.js";
import { follow } from "./live.js";

const list = document.getElementById("runs");
const ticked = () => [...list.querySelectorAll("input:checked")].map((box) => box.value);
const compare = document.getElementById("compare");
const count = () => { compare.disabled = ticked().length !== 2; };

// What finds an element of the list again, wherever its run stands by then.
const known = (element) => {
  if (element.matches("input")) return `input[value="${CSS.escape(element.value)}"]`;
  const address = element.getAttribute("href");
  return address ? `a[href="${CSS.escape(address)}"]` : "[tabindex]";
};

const refresh = async () => {
  const answer = await fetch("/list");
  if (!answer.ok) return;
  const kept = new Set(ticked());
  const focused = list.contains(document.activeElement) ? known(document.activeElement) : null;
  list.innerHTML = await answer.text();
  for (const box of list.querySelectorAll("input")) box.checked = kept.has(box.value);
  if (focused) list.querySelector(focused)?.focus({ preventScroll: true });
  filter();
  count();
};
follow("/events", { runs: refresh });
list.addEventListener("change", count);
count();
