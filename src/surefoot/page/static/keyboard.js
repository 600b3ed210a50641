// Keys for those who would rather not reach for the mouse, and the filter of a list.

const places = Object.fromEntries(
  [...document.querySelectorAll("[data-go]")].map((link) => [link.dataset.go, link.href]),
);
const dialog = document.getElementById("keys");
const opener = document.getElementById("keys-open");
const off = document.getElementById("keys-off");
const field = document.querySelector("[data-filter]");

export const filter = () => {
  if (!field) return;
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const line of document.querySelectorAll(field.dataset.filter)) {
    const text = line.textContent.toLowerCase();
    line.hidden = !words.every((word) => text.includes(word));
  }
};

// Moves along the lines of a list that can be seen, from the one that has the focus.
const move = (by) => {
  const lines = [...document.querySelectorAll("a[data-line]")].filter((a) => a.offsetParent);
  if (!lines.length) return;
  const at = lines.indexOf(document.activeElement);
  const next = at < 0 ? (by > 0 ? 0 : lines.length - 1) : at + by;
  lines[Math.min(Math.max(next, 0), lines.length - 1)].focus();
};

let going = false; // after a `g`
const keys = {
  "?": () => dialog.showModal(),
  "/": () => field?.focus(),
  j: () => move(1),
  k: () => move(-1),
  "[": () => document.querySelector("a[rel=prev]")?.click(),
  "]": () => document.querySelector("a[rel=next]")?.click(),
  g: () => { going = true; setTimeout(() => { going = false; }, 1500); },
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.activeElement === field) { field.blur(); return; }
  if (off.checked || event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
  if (going && places[event.key]) { window.location.href = places[event.key]; return; }
  going = false;
  const act = keys[event.key];
  if (act) { event.preventDefault(); act(); }
});

opener.hidden = false;
opener.addEventListener("click", () => dialog.showModal());
field?.addEventListener("input", filter);
off.addEventListener("change", () => {
  localStorage.setItem("surefoot-keys", off.checked ? "off" : "on");
});
off.checked = localStorage.getItem("surefoot-keys") === "off"; // last: some browsers keep nothing
