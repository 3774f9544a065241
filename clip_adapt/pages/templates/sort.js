for (const [column, button] of document.querySelectorAll("#runs thead button").entries()) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const numbers = head.classList.contains("num");
    // Numbers start with the largest, words with the first.
    const now = head.getAttribute("aria-sort") || (numbers ? "ascending" : "descending");
    const up = now === "descending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = document.querySelector("#runs tbody");
    const key = (row) => row.children[column].dataset.key;
    const compare = (a, b) => {
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
      const order = numbers ? key(a) - key(b) : key(a).localeCompare(key(b));
      return up ? order : -order;
    };
    body.append(...[...body.children].sort(compare));
  });
}
