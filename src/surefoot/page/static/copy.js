// Offers to copy the code of remedies, where the browser lets a page do so.

export const copyable = () => {
  if (!navigator.clipboard) return;
  for (const block of document.querySelectorAll(".code")) {
    const button = block.querySelector("button");
    if (!button || !button.hidden) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
};
