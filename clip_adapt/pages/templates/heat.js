// Names the cell that is pointed at: a finger finds no tooltip.
const readout = document.querySelector(".readout");
for (const kind of ["pointermove", "click"]) {
  document.querySelector(".heat svg").addEventListener(kind, (event) => {
    const title = event.target.querySelector(":scope > title");
    if (title) readout.textContent = title.textContent;
  });
}
