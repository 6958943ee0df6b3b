"use strict";
const NAMES = ["task", "arm", "sparsity", "seed"];
const boxes = [...document.querySelectorAll("[data-filter]")];
const filtered = [...document.querySelectorAll(NAMES.map((name) => `main [data-${name}]`).join(","))];

// A mark of all seeds or arms ("*") and a dense arm (sparsity 0) belong to every choice.
const always = (name, value) => value === undefined || value === "*" || (name === "sparsity" && value === "0");

function filter() {
  const chosen = Object.fromEntries(NAMES.map((name) => [name, new Set()]));
  for (const box of boxes) if (box.checked) chosen[box.dataset.filter].add(box.value);
  for (const element of filtered) {
    const shown = NAMES.every((name) => always(name, element.dataset[name]) || chosen[name].has(element.dataset[name]));
    element.classList.toggle("off", !shown);
  }
  document.getElementById("nothing").hidden = NAMES.every((name) => chosen[name].size > 0);
}

// Numbers sort as numbers, also with an interval behind them; what is missing comes last.
function compare(first, second, sign) {
  const [a, b] = [first, second].map((text) => parseFloat(text.replaceAll(",", "")));
  if (Number.isNaN(a) || Number.isNaN(b)) {
    return Number.isNaN(a) && Number.isNaN(b) ? sign * first.localeCompare(second) : Number.isNaN(a) ? 1 : -1;
  }
  return sign * (a - b);
}

function sort(head) {
  const body = head.closest("table").tBodies[0];
  const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
  const index = head.cellIndex;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const text = (row) => row.cells[index].textContent;
  body.append(...[...body.rows].sort((a, b) => compare(text(a), text(b), sign)));
}

document.getElementById("filters").addEventListener("change", filter);
document.addEventListener("click", (event) => {
  const { all, none } = event.target.dataset;
  if (all || none) {
    for (const box of boxes) if (box.dataset.filter === (all || none)) box.checked = Boolean(all);
    filter();
  } else if (event.target.matches("th button")) {
    sort(event.target.parentNode);
  }
});
filter(); // a browser may have kept the boxes of an earlier visit
