// Runs where modules do not: a page that was opened as a file loads none, and is to say so.
document.addEventListener("DOMContentLoaded", function () {
  var told = "";
  if (location.protocol === "file:") {
    told = "This page was opened as a file, and browsers let files load nothing. Serve its folder: python -m http.server 8000, then open http://127.0.0.1:8000";
  } else if (typeof WebAssembly !== "object" || typeof OffscreenCanvas !== "function") {
    told = "This browser lacks WebAssembly or OffscreenCanvas, which the page needs: take a newer one (Chrome 110, Firefox 115, Safari 17, or later).";
  }
  if (!told) return;
  var problem = document.getElementById("problem");
  problem.textContent = told;
  problem.hidden = false;
  document.getElementById("status").textContent = "";
});
