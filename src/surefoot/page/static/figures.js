// Draws Plotly's figures from JSON, in the system's light or dark, and again when either changes.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 640px)");
const config = {
  responsive: true,
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};
const shown = new Map(); // element -> figure
let themes = null;

const look = async () => {
  themes ??= fetch("/themes.json").then((answer) => answer.json());
  return (await themes)[dark.matches ? "dark" : "light"];
};

// Plotly itself keeps what was zoomed into only while the figure's own ranges stay the same, and
// those of a live run grow. Out again is back to the ranges that it was first drawn with.
const zooms = new Map(); // element -> { axis: range }
const note = (element, change, first) => {
  const kept = zooms.get(element);
  for (const [key, value] of Object.entries(change)) {
    const [axis, what] = key.split(".");
    const own = first[axis]?.range;
    const now = what === "range[0]" ? [value, change[`${axis}.range[1]`]] : value;
    if (what === "autorange" || (own && own[0] === now?.[0] && own[1] === now?.[1])) delete kept[axis];
    else if (what === "range" || what === "range[0]") kept[axis] = now;
  }
};

// Draws into an element; what the reader has zoomed into stays so when it is drawn again.
export const draw = async (element, figure) => {
  shown.set(element, figure);
  const layout = structuredClone(figure.layout);
  layout.template = await look();
  layout.uirevision = "kept";
  // On a phone the names of layers would take the place of the figure itself.
  for (const [key, axis] of Object.entries(layout)) {
    if (narrow.matches && key.startsWith("yaxis") && axis.type === "category") {
      axis.showticklabels = false;
    }
  }
  element.style.minHeight = `${layout.height ?? 320}px`;
  for (const [axis, range] of Object.entries(zooms.get(element) ?? {})) {
    if (layout[axis]) Object.assign(layout[axis], { range: [...range], autorange: false });
  }
  await window.Plotly.react(element, figure.data, layout, config);
  if (!zooms.has(element)) {
    zooms.set(element, {});
    element.on("plotly_relayout", (change) => note(element, change, figure.layout));
  }
  element.dataset.drawn = String(Number(element.dataset.drawn ?? 0) + 1);
};

const again = () => { for (const [element, figure] of shown) draw(element, figure); };
dark.addEventListener("change", again);
narrow.addEventListener("change", again);

// Calls `wanted` with those of the elements that come near the screen, each time that some do.
export const whenNear = (elements, wanted) => {
  const near = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      isIntersecting ? near.add(target) : near.delete(target);
    }
    if (near.size) wanted([...near]);
  }, { rootMargin: "400px" });
  for (const element of elements) observer.observe(element);
  return near;
};
