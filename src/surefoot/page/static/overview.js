// Keeps the list of runs up to date, without losing what is ticked or typed.

import { filter } from "./keyboard.js";
import { follow } from "./live.js";

const list = document.getElementById("runs");
const ticked = () => [...list.querySelectorAll("input:checked")].map((box) => box.value);
const compare = document.getElementById("compare");
const count = () => { compare.disabled = ticked().length !== 2; };

const refresh = async () => {
  const answer = await fetch("/list");
  if (!answer.ok) return;
  const kept = new Set(ticked());
  const line = document.activeElement?.closest("a[data-line]")?.getAttribute("href");
  list.innerHTML = await answer.text();
  for (const box of list.querySelectorAll("input")) box.checked = kept.has(box.value);
  if (line) list.querySelector(`a[data-line][href="${CSS.escape(line)}"]`)?.focus();
  filter();
  count();
};
follow("/events", { runs: refresh });
list.addEventListener("change", count);
count();
