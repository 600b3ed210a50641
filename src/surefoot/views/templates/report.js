"use strict";
// Draws the figures from the JSON in the page, follows the system's light or dark, prints in light.
(() => {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 640px)");
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };

  const draw = (template, width) => Promise.all(
    Object.entries(payload.figures).map(([name, figure]) => {
      const layout = structuredClone(figure.layout);
      layout.template = template;
      if (width) layout.width = width;
      // On a phone long names of layers would take the place of the figure itself.
      const beside = (layout.xaxis?.domain?.[1] ?? 1) < 0.9; // two panels share the width
      for (const [key, axis] of Object.entries(layout)) {
        const named = key.startsWith("yaxis") && axis.type === "category";
        const long = () => (axis.categoryarray || []).some((name) => name.length > 11);
        if (narrow.matches && !width && named && (beside || long())) axis.showticklabels = false;
      }
      return Plotly.react(`figure-${name}`, figure.data, layout, config);
    }),
  );
  let printing = false;
  const drawNow = () => (
    printing ? draw(payload.light, 660) : draw(prefersDark.matches ? payload.dark : payload.light)
  );
  const print = (value) => () => { printing = value; drawNow(); };

  const offerCopy = () => {
    if (!navigator.clipboard) return;
    for (const block of document.querySelectorAll(".code")) {
      const button = block.querySelector("button");
      button.hidden = false;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(block.querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
    }
  };

  prefersDark.addEventListener("change", drawNow);
  narrow.addEventListener("change", drawNow);
  window.addEventListener("beforeprint", print(true));
  window.addEventListener("afterprint", print(false));
  offerCopy();
  drawNow().then(() => document.documentElement.setAttribute("data-drawn", "yes"));
})();
