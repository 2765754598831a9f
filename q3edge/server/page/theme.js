// Sets the chosen colours before anything is drawn; without a choice they follow the system.
"use strict";

{
  const THEME = "q3edge.theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = localStorage.getItem(THEME);
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      const wanted = isDark() ? "light" : "dark";
      if ((wanted === "dark") === system.matches) {
        delete root.dataset.theme;
        localStorage.removeItem(THEME);
      } else {
        root.dataset.theme = wanted;
        localStorage.setItem(THEME, wanted);
      }
      show();
    });
    system.addEventListener("change", show);
    show();
  });
}
