// A passage with what the answer quotes of it, in a dialog of its own.

import { $, el, marked, name, similarity } from "./render.js";
import { t } from "./words.js";

/** Opens the passage; the browser returns the focus to what opened it. */
export function openPassage(source) {
  $("passage-title").replaceChildren(el("span", { className: "number", textContent: source.n }), name(source));
  const facts = [source.heading, source.source].filter((fact) => fact && fact !== name(source));
  const score = Number.isFinite(source.similarity) ? [similarity(source.similarity)] : [];
  $("passage-facts").replaceChildren(el("span", { textContent: facts.join(" · ") }), ...score);
  $("passage-text").replaceChildren(...marked(source));
  $("passage").showModal();
  $("passage-text").focus();
  $("passage-text").querySelector("mark")?.scrollIntoView({ block: "center" });
}
