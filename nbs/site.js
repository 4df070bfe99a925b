// Boxes that scroll sideways can be reached with the keyboard, and only those.
(() => {
  const kinds = [".sd-table", "pre", ".math.display", ".table-responsive", ".cell-output-display"];
  const boxes = document.querySelectorAll(kinds.map((kind) => "main " + kind).join(", "));
  const look = (box) => {
    const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "visible";
    box.classList.toggle("scrolls", scrolls);
    if (!scrolls) { ["tabindex", "role", "aria-label"].forEach((name) => box.removeAttribute(name)); return; }
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Scrolls sideways");
  };
  const watcher = new ResizeObserver((entries) => entries.forEach((entry) => look(entry.target)));
  boxes.forEach((box) => watcher.observe(box));
  // what stands in a box grows when fonts come; the box does not
  const again = () => boxes.forEach(look);
  document.fonts.ready.then(again);
  window.addEventListener("load", again);
})();
