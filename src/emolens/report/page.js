"use strict";
// Draws every picture and every text from the JSON that stands beside it.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const data = (box) => JSON.parse(document.getElementById(box.dataset.from).textContent);

  // ast: expressions are interpreted, never compiled, so that the page may forbid eval
  const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: dark ? "dark" : "light" } };

  const failed = (box, error) => {
    box.textContent = "This picture could not be drawn; its numbers are in the table.";
    console.error(error);
  };

  // CircuitsVis makes its names for the mouse alone, and some time after it was called
  const reachable = (box) => {
    for (const name of box.querySelectorAll("[style*='cursor: pointer']:not([role])")) {
      name.tabIndex = 0;
      name.setAttribute("role", "button");
      name.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        name.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
      });
    }
  };

  const draw = async () => {
    const texts = document.querySelectorAll(".tokens");
    // its tensors are small: a graphics card only costs time, and may round to 16 bits
    if (texts.length) await _tfengine.setBackend("cpu");
    for (const box of texts) {
      new MutationObserver(() => reachable(box)).observe(box, { childList: true, subtree: true });
      CircuitsVis.render(box.id, CircuitsVis.ColoredTokensMulti, data(box));
    }
    // one after the other: the first are to be seen before the last are drawn
    for (const box of document.querySelectorAll(".chart")) {
      await vegaEmbed(box, data(box), options).catch((error) => failed(box, error));
    }
    document.documentElement.dataset.drawn = "all";
  };
  draw();
})();
