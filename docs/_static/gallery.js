// Cards of the chosen family and task; a second click lets go of the choice.
const cards = [...document.querySelectorAll(".cards .card")];
const chosen = { family: "", task: "" };

function show() {
  let count = 0;
  for (const card of cards) {
    const { family, task } = card.dataset;
    const fits = (!chosen.family || family === chosen.family) && (!chosen.task || task.split(" ").includes(chosen.task));
    card.hidden = !fits;
    count += fits;
  }
  document.querySelector(".count").textContent = `${count} of ${cards.length} losses`;
}

for (const group of Object.keys(chosen)) {
  for (const button of document.querySelectorAll(`button[data-${group}]`)) {
    button.addEventListener("click", () => {
      chosen[group] = chosen[group] === button.dataset[group] ? "" : button.dataset[group];
      for (const other of document.querySelectorAll(`button[data-${group}]`)) {
        other.setAttribute("aria-pressed", String(other.dataset[group] === chosen[group]));
      }
      show();
    });
  }
}
show();
