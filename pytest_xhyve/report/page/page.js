"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const frame = byId("timeline"), drawing = byId("drawing"), search = byId("search");
  let zoom = 1;
  const zoomTo = (value) => {
    const middle = (frame.scrollLeft + frame.clientWidth / 2) / drawing.clientWidth;
    zoom = Math.min(256, Math.max(1, value));
    drawing.setAttribute("width", zoom * 100 + "%");
    frame.scrollLeft = middle * drawing.clientWidth - frame.clientWidth / 2;
  };
  byId("in").addEventListener("click", () => zoomTo(zoom * 2));
  byId("out").addEventListener("click", () => zoomTo(zoom / 2));
  byId("all").addEventListener("click", () => zoomTo(1));
  document.addEventListener("keydown", (event) => {
    if (event.target === search || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "=") zoomTo(zoom * 2);
    else if (event.key === "-") zoomTo(zoom / 2);
    else if (event.key === "0") zoomTo(1);
    else if (event.key === "/") search.focus();
    else return;
    event.preventDefault();
  });
  const rows = document.querySelectorAll("#tests tbody tr, details.failure");
  const bars = document.querySelectorAll("rect");
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    let found = 0;
    for (const row of rows) {
      row.hidden = !row.dataset.w.includes(wanted);
      if (!row.hidden && row.localName === "tr") found += 1;
    }
    for (const bar of bars) bar.classList.toggle("off", !bar.dataset.w.includes(wanted));
    byId("found").textContent = wanted ? found + (found === 1 ? " test" : " tests") : "";
  });
  const open = () => {
    const target = location.hash && byId(location.hash.slice(1));
    if (target && target.localName === "details") target.open = true;
  };
  addEventListener("hashchange", open);
  open();
})();
