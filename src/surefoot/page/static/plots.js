// Figures of one address, drawn when they come near the screen and drawn again on demand.

import { draw, whenNear } from "./figures.js";

// `told(any)` hears after each look whether there is anything to draw. Returns a function that
// asks for the figures again.
export const plots = (place, told = () => {}) => {
  const elements = [...place.querySelectorAll(".plot")];
  let figures = null;

  const show = async (wanted) => {
    figures ??= fetch(place.dataset.from)
      .then((answer) => (answer.ok ? answer.json() : null), () => null);
    const asked = figures;
    const known = await asked;
    if (asked !== figures) return; // newer ones were asked for, of these elements as well
    if (!known) { figures = null; return; } // no answer: what is drawn stays
    for (const element of wanted) {
      const figure = known[element.dataset.figure];
      element.closest("figure").hidden = !figure;
      if (figure) await draw(element, figure);
    }
    told(Object.values(known).some(Boolean));
  };
  const near = whenNear(elements, show);

  return async () => {
    figures = null;
    const hidden = elements.filter((element) => element.closest("[hidden]"));
    await show([...new Set([...near, ...hidden])]);
  };
};
