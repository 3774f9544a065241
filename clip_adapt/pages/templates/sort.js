for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const numbers = head.classList.contains("num");
    // Numbers start with the largest, words with the first.
    const now = head.getAttribute("aria-sort") || (numbers ? "ascending" : "descending");
    const up = now === "descending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const key = (row) => row.cells[head.cellIndex].dataset.key;
    const compare = (a, b) => {
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
      const order = numbers ? key(a) - key(b) : key(a).localeCompare(key(b));
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
