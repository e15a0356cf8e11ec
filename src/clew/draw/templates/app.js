// Reading a cell or a word: what is under the pointer, or was touched, is told below its map.
(function () {
  function read(event) {
    const cell = event.target.closest ? event.target.closest("[data-n]") : null;
    const card = cell && cell.closest(".clew-card");
    const place = card && card.querySelector(".clew-reading");
    if (place) place.textContent = cell.dataset.at + ": " + cell.dataset.n;
  }
  document.addEventListener("pointerover", read);
  document.addEventListener("click", read);
  // A page in a frame says how high it is.
  window.addEventListener("message", event => {
    const height = Number(event.data && event.data.clewHeight);
    for (const frame of document.querySelectorAll(".clew-frame"))
      if (frame.contentWindow === event.source && height > 0) frame.style.height = Math.min(Math.max(height, 200), 6000) + 2 + "px";
  });
})();
