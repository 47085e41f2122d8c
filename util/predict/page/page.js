"use strict";
const body = document.querySelector("#images tbody");
const rows = Array.from(body.rows);
const collator = new Intl.Collator(undefined, { numeric: true });
const byId = (id) => document.getElementById(id);

function value(row, key) {
  const text = row.dataset[key];
  return key === "score" || key === "boxes" ? Number(text) : text;
}

function compare(a, b, key) {
  const [x, y] = [value(a, key), value(b, key)];
  return typeof x === "number" ? x - y : collator.compare(x, y);
}

function sortBy(button) {
  const heading = button.closest("th");
  const other = { ascending: "descending", descending: "ascending" };
  const order = other[heading.getAttribute("aria-sort")] || button.dataset.first;
  for (const th of document.querySelectorAll("th[aria-sort]")) th.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => sign * compare(a, b, button.dataset.key) || collator.compare(a.dataset.name, b.dataset.name));
  body.append(...rows);
}

function filter() {
  const text = byId("filter").value.trim().toLowerCase();
  const only = byId("only").checked;
  let shown = 0;
  for (const row of rows) {
    const content = (row.dataset.name + " " + row.dataset.classes).toLowerCase();
    row.hidden = !content.includes(text) || (only && row.dataset.boxes === "0");
    shown += row.hidden ? 0 : 1;
  }
  byId("count").textContent = `${shown} of ${rows.length} images`;
}

const scoreName = document.querySelector("button[data-key=score]").textContent;
let current = -1;
const withPicture = () => rows.filter((row) => !row.hidden && row.querySelector("a"));

function show(index) {
  const list = withPicture();
  if (!list.length) return;
  current = (index + list.length) % list.length;
  const row = list[current];
  byId("picture").src = row.querySelector("a").getAttribute("href");
  byId("picture").alt = `${row.dataset.name} with its boxes`;
  byId("caption").textContent = `${row.dataset.name}, ${scoreName} ${row.cells[2].textContent}`;
  if (!byId("large").open) byId("large").showModal();
}

body.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(withPicture().indexOf(link.closest("tr")));
});
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => sortBy(button));
byId("filter").addEventListener("input", filter);
byId("only").addEventListener("change", filter);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("previous").addEventListener("click", () => show(current - 1));
byId("next").addEventListener("click", () => show(current + 1));
byId("close").addEventListener("click", () => byId("large").close());
byId("large").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") show(current - 1);
  if (event.key === "ArrowRight") show(current + 1);
});
byId("controls").hidden = false;
filter();
