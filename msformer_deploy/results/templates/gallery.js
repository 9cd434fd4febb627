"use strict";
/* Only attributes already in the page are read, so no value from the report ever becomes code or markup. */
const all = (selector) => [...document.querySelectorAll(selector)];
const views = all("[data-view]");
const filter = document.getElementById("filter");
const shown = document.getElementById("shown");
const cards = all(".card").map((card) => [card, card.querySelector(".name").textContent.toLowerCase()]);

function show(chosen) {
  for (const button of views) button.setAttribute("aria-pressed", button === chosen);
  for (const link of all("a.picture")) {
    const image = link.querySelector("img");
    const source = image.getAttribute("data-" + chosen.dataset.view);
    image.hidden = source === null;
    if (source === null) { link.removeAttribute("href"); continue; }
    image.src = link.href = source;
    image.alt = `${chosen.textContent}: ${link.dataset.name}`;
  }
}

function narrow() {
  const wanted = filter.value.trim().toLowerCase();
  let count = 0;
  for (const [card, name] of cards) {
    card.hidden = !name.includes(wanted);
    count += !card.hidden;
  }
  shown.textContent = wanted ? `${count} of ${cards.length} shown` : "";
}

for (const button of views) button.addEventListener("click", () => show(button));
filter.addEventListener("input", narrow);
all("[href='#failed']").forEach((link) => link.addEventListener("click", () => { filter.value = ""; narrow(); }));
document.querySelector(".tools").hidden = false;
narrow();
