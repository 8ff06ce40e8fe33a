// Language, colours, access token; and the dialogs' way to close.

import { $ } from "./render.js";
import { keepToken, token } from "./server.js";
import { label, otherLanguage, translate } from "./words.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

export function startSettings() {
  translate();
  showTheme();
  $("language").addEventListener("click", () => {
    otherLanguage();
    document.dispatchEvent(new CustomEvent("language"));
  });
  $("theme").addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    // Back to what the system says, it follows the system again.
    if ((theme === "dark") === dark.matches) {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("ragway.theme");
    } else {
      document.documentElement.dataset.theme = theme;
      localStorage.setItem("ragway.theme", theme);
    }
    showTheme();
  });
  dark.addEventListener("change", showTheme);

  $("access-open").addEventListener("click", askForToken);
  document.addEventListener("unauthorized", askForToken);
  $("access-form").addEventListener("submit", () => {
    keepToken($("token").value.trim());
    document.dispatchEvent(new CustomEvent("token"));
  });
  for (const button of document.querySelectorAll("[data-close], [data-close-form]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  for (const dialog of document.querySelectorAll("dialog")) {
    // A click beside it closes it.
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
}

function askForToken() {
  if ($("access").open) return;
  $("token").value = token();
  $("access").showModal();
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : dark.matches;
}

function showTheme() {
  $("theme").textContent = isDark() ? "☀" : "☾";
  label($("theme"), isDark() ? "to-light" : "to-dark");
}
