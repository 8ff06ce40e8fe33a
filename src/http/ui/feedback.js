// What readers think of the answer, and taking it along.

import { $ } from "./render.js";
import { post } from "./server.js";
import { t } from "./words.js";

let answer = null;
let rating = null;

export function startFeedback() {
  for (const name of ["up", "down"]) $(name).addEventListener("click", () => rate(name));
  $("remark").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await keep($("comment").value.trim())) $("remark").hidden = true;
  });
  $("copy").addEventListener("click", async () => {
    const copied = await copy(asText(answer)).then(() => true, () => false);
    $("said").textContent = t(copied ? "copied" : "not-copied");
  });
}

/** Offers the buttons for a whole answer; for none hides them. */
export function offerFeedback(whole) {
  answer = whole;
  rating = null;
  $("actions").hidden = !whole;
  $("remark").hidden = true;
  $("comment").value = "";
  $("said").textContent = "";
  document.querySelector(".thumbs").hidden = !whole?.answer_id;
  for (const name of ["up", "down"]) $(name).ariaPressed = "false";
}

async function rate(name) {
  rating = name;
  for (const other of ["up", "down"]) $(other).ariaPressed = String(other === name);
  if (await keep("")) $("remark").hidden = false;
}

async function keep(comment) {
  const rated = answer;
  try {
    await post("api/v1/feedback", { answer_id: answer.answer_id, rating, ...(comment && { comment }) });
    if (rated === answer) $("said").textContent = t("thanks");
    return rated === answer;
  } catch (error) {
    // A new answer may be there by now.
    if (rated === answer) $("said").textContent = error.detail || error.title;
    return false;
  }
}

/** The answer with its sources below. */
function asText({ answer: text, citations }) {
  const sources = new Map(citations.map(({ n, title, source }) => [n, title || source || t("untitled")]));
  const lines = [...sources].map(([n, name]) => `[${n}] ${name}`);
  return [text, ...(lines.length ? ["", ...lines] : [])].join("\n");
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Pages that came without TLS have no clipboard of their own.
  const box = document.createElement("textarea");
  box.value = text;
  document.body.append(box);
  box.select();
  const copied = document.execCommand("copy");
  box.remove();
  if (!copied) throw new Error("copy");
}
