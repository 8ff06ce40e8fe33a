// The answer and its sources on the page.

import { $, card, el, explanation, withMarkers } from "./render.js";
import { offerFeedback } from "./feedback.js";
import { openPassage } from "./passage.js";
import { t } from "./words.js";

export function clearAnswer() {
  for (const id of ["result", "problem", "verdict", "sources", "others", "how", "tried"]) $(id).hidden = true;
  for (const id of ["answer", "spoken", "byline", "tried", "cited", "uncited", "how-body"]) $(id).replaceChildren();
  $("result").classList.remove("abstained");
  $("others").open = false;
  offerFeedback(null);
}

/** The next piece, while the answer is written. */
export function showPiece(run, piece) {
  run.text += piece;
  showText(run, run.text, true);
  // Only what is new is read out, and without the numbers.
  $("spoken").append(el("span", { textContent: piece.replace(/\[\d+\]/g, "") }));
}

/** The whole answer with all that is known of it. */
export function showWhole(run, answer) {
  run.text = answer.answer ?? run.text;
  run.citations = answer.citations ?? run.citations;
  const abstained = answer.answered === false || answer.method === "abstained";
  $("result").classList.toggle("abstained", abstained);
  showText(run, run.text || t("nothing-found"), false);
  showVerdict(abstained ? "abstained" : answer.method);
  showByline(answer, abstained);
  showSources(run, true, abstained);
  $("how-body").replaceChildren(...explanation(answer));
  $("how").hidden = false;
  $("how").open = Boolean(answer.explain);
  $("spoken").append(el("span", { textContent: t("complete", run.citations.length) }));
  offerFeedback(answer);
}

/** Cards of the cited passages; when all is known, also of those only read. */
export function showSources(run, complete = false, abstained = false) {
  const cited = new Map();
  for (const citation of run.citations) {
    const passage = run.sources.find((source) => source.n === citation.n);
    const entry = cited.get(citation.n) ?? { ...passage, ...citation, quotes: [], places: [], text: passage?.text };
    if (citation.quote) entry.quotes.push(citation.quote);
    if (passage && Number.isInteger(citation.start)) entry.places.push([citation.start, citation.end]);
    cited.set(citation.n, entry);
  }
  run.cited = cited;
  $("cited").replaceChildren(...[...cited.values()].map((source) => card(source, openPassage)));
  $("sources").hidden = cited.size === 0;
  if (!complete) return;

  const rest = run.sources.filter((source) => !cited.has(source.n));
  $("uncited").replaceChildren(...rest.map((source) => card({ ...source, quotes: [] }, openPassage)));
  $("others").hidden = rest.length === 0;
  $("others-title").textContent = t(abstained ? "closest" : "others", rest.length);
}

/** Writes the answer; `[2]` becomes a button where there is a source 2. */
function showText(run, text, writing) {
  const known = new Set([...run.sources, ...run.citations].map((source) => source.n));
  const shown = writing ? withoutStrayMarkers(text, known) : text;
  const open = (n) => {
    const passage = run.cited?.get(n) ?? run.sources.find((source) => source.n === n);
    if (passage) openPassage({ quotes: [], ...passage });
  };
  const paragraphs = shown.trim().split(/\n{2,}/);
  $("answer").setAttribute("aria-busy", String(writing));
  $("answer").replaceChildren(...paragraphs.map((paragraph) => el("p", {}, ...withMarkers(paragraph, known, open))));
  $("result").hidden = false;
}

/** While the answer is unchecked: without unknown numbers and without a marker half written. */
function withoutStrayMarkers(text, known) {
  return text
    .replace(/\s*\[[\d,\s]*$/, "")
    .replace(/\s*\[(\d+)\]/g, (all, n) => (known.has(Number(n)) ? all : ""));
}

function showVerdict(method) {
  const known = ["extractive", "abstained"].includes(method);
  $("verdict").hidden = !known;
  $("verdict").textContent = known ? t(method) : "";
  $("verdict").dataset.method = method;
}

function showByline(answer, abstained) {
  const by = answer.method === "generated" && answer.model ? t("written-by", answer.model) : null;
  const seconds = Number.isFinite(answer.elapsed_time) ? t("seconds", answer.elapsed_time.toFixed(2)) : null;
  $("byline").textContent = [by, abstained ? t("hint") : null, seconds].filter(Boolean).join(" · ");
  const failed = answer.attempts ?? [];
  $("tried").replaceChildren(...failed.map(({ model, error }) => el("li", { title: error, textContent: t("tried", model) })));
  $("tried").hidden = failed.length === 0;
}
