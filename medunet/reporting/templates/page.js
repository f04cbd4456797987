"use strict";
/* Tables sort by a click (or Enter) on a heading: numbers as numbers, what has no value last in both directions. */
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const read = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.order ?? cell.textContent.trim();
    if (text === "" || text === "\u2013") return null;
    return Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (first, second) =>
    typeof first === "number" && typeof second === "number"
      ? first - second
      : String(first).localeCompare(String(second), undefined, { numeric: true });
  const sort = (column) => {
    const falls = headings[column].getAttribute("aria-sort") === "ascending";
    for (const heading of headings) heading.removeAttribute("aria-sort");
    headings[column].setAttribute("aria-sort", falls ? "descending" : "ascending");
    const rows = [...body.rows].map((row) => [read(row, column), row]);
    rows.sort(([first], [second]) => {
      if (first === null || second === null) return (first === null) - (second === null);
      return falls ? compare(second, first) : compare(first, second);
    });
    body.append(...rows.map(([, row]) => row));
  };
  headings.forEach((heading, column) => {
    heading.setAttribute("role", "button");
    heading.tabIndex = 0;
    heading.addEventListener("click", () => sort(column));
    heading.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sort(column);
    });
  });
}
/* A sheet of paper cannot be unfolded: what is closed is opened for printing, and closed again. */
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const part of closed) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of closed) part.open = false;
});
/* A link to a closed part opens it. */
const openTarget = () => {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", openTarget);
openTarget();
