"use strict";
for (const slider of document.querySelectorAll("input[data-compare]")) {
  const both = document.getElementById(slider.dataset.compare);
  const move = () => both.style.setProperty("--at", slider.value + "%");
  slider.addEventListener("input", move);
  move();
}
