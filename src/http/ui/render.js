// Building blocks of the page: elements, citation markers, source cards, and
// the tables that explain an answer.
//
// Answers, passages, titles and error texts come from models and documents that
// nobody has vetted. They enter the page as text nodes only, never as markup,
// and only http and https addresses become links.

import { t } from "./words.js";

export const $ = (id) => document.getElementById(id);

/** A new element. Strings among the children become text nodes. */
export function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// ── Markers ─────────────────────────────────────────────────────────────────

/** Text in which `[2]` is a button that opens source 2, where `known` holds it. */
export function withMarkers(text, known, open) {
  return text.split(/(\s*\[\d+(?:\s*,\s*\d+)*\])/).flatMap((part, index) => {
    if (index % 2 === 0) return [part]; // the text between two markers
    const numbers = part.match(/\d+/g).map(Number);
    return numbers.every((n) => known.has(n)) ? numbers.map((n) => marker(n, open)) : [part];
  });
}

function marker(n, open) {
  // The brackets are not seen, but they are there in copied text.
  const bracket = (text) => el("span", { className: "bracket", textContent: text });
  const button = el("button", { type: "button", className: "marker", ariaLabel: t("source", n) }, bracket("["), n, bracket("]"));
  button.ariaHasPopup = "dialog";
  button.addEventListener("click", () => open(n));
  return button;
}

// ── Source cards ────────────────────────────────────────────────────────────

/** What a document is called. */
export function name(source) {
  return source.title || source.source || t("untitled");
}

/** The card of one source; `quotes` are the spans of it that the answer rests on. */
export function card(source, open) {
  const score = Number.isFinite(source.similarity) ? similarity(source.similarity) : null;
  const head = el("div", { className: "head" }, el("span", { className: "title", textContent: name(source) }), score);
  const button = el("button", { type: "button", className: "link", textContent: t("open"), ariaHasPopup: "dialog" });
  button.addEventListener("click", () => open(source));
  const foot = el("div", { className: "foot" }, button);
  if (source.attached) foot.append(el("span", { textContent: t("attached") }));
  const body = el("div", {}, head, origin(source, name(source)), quotation(source), foot);
  return el("li", { className: "card" },
    el("span", { className: "number", textContent: source.n, ariaLabel: t("source", source.n) }), body);
}

export function similarity(value) {
  const percent = `${Math.round(Math.max(0, value) * 100)} %`;
  return el("span", { className: "score", title: t("cosine", value.toFixed(3)) },
    el("meter", { min: 0, max: 1, value: Math.max(0, value), ariaLabel: t("similarity") }), percent);
}

function origin(source, name) {
  if (!source.source || source.source === name) return webLink(source.source);
  return webLink(source.source) ?? el("span", { className: "origin", textContent: source.source });
}

function webLink(address) {
  if (!URL.canParse(address ?? "")) return null;
  const url = new URL(address);
  if (!["http:", "https:"].includes(url.protocol)) return null;
  return el("a", {
    className: "origin", href: url.href, target: "_blank", rel: "noopener noreferrer", textContent: address,
  });
}

const CONTEXT = 140; // characters shown on each side of what is quoted

/** The passage with its quoted spans marked, shortened around them. */
function quotation(source) {
  const text = passageText(source);
  const spans = quotedSpans(text, source);
  const from = spans.length ? wordStart(text, spans[0][0] - CONTEXT) : 0;
  const to = wordEnd(text, (spans.length ? spans.at(-1)[1] : CONTEXT) + CONTEXT);
  return el("blockquote", {}, ...excerpt(text, spans, from, to));
}

/** The whole passage with its quoted spans marked. */
export function marked(source) {
  const text = passageText(source);
  return excerpt(text, quotedSpans(text, source), 0, text.length);
}

function passageText(source) {
  return source.text ?? source.quotes.join(" … ");
}

function excerpt(text, spans, from, to) {
  const parts = [from > 0 ? "… " : ""];
  let at = from;
  for (const [start, end] of spans) {
    parts.push(text.slice(at, start), el("mark", { textContent: text.slice(start, end) }));
    at = end;
  }
  return [...parts, text.slice(at, to), to < text.length ? " …" : ""];
}

/** Where the quotes stand in the text, sorted and merged: as the server says, else where their words are. */
function quotedSpans(text, { quotes, places = [] }) {
  // The server counts characters, JavaScript the halves of those outside the basic plane.
  const characters = places.length ? Array.from(text) : [];
  const offset = (count) => characters.slice(0, count).join("").length;
  const told = places.map(([start, end]) => [offset(start), offset(end)]);
  const found = told.length ? told : quotes.flatMap((quote) => {
    const words = quote.trim().split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    const match = new RegExp(words.join("\\s+")).exec(text);
    return match && match[0] ? [[match.index, match.index + match[0].length]] : [];
  });
  const merged = [];
  for (const [start, end] of found.sort((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], end);
    else merged.push([start, end]);
  }
  return merged;
}

function wordStart(text, at) {
  return at <= 0 ? 0 : text.lastIndexOf(" ", at) + 1;
}

function wordEnd(text, at) {
  const end = at >= text.length ? -1 : text.indexOf(" ", at);
  return end < 0 ? text.length : end;
}

// ── How it was answered ─────────────────────────────────────────────────────

/** What is known of how an answer came about; all that `explain` holds is shown. */
export function explanation(answer) {
  const { stages, passages, prompt, ...rest } = answer.explain ?? {};
  const isGroup = ([, value]) => value !== null && typeof value === "object";
  const facts = Object.entries(rest).filter((entry) => !isGroup(entry));
  const groups = Object.entries(rest).filter(isGroup);
  return [
    definitions({
      method: answer.method,
      model: answer.model,
      seconds: answer.elapsed_time,
      "prompt tokens": answer.usage?.prompt_tokens,
      "answer tokens": answer.usage?.completion_tokens,
      ...Object.fromEntries(facts),
    }),
    ...section("models that failed", answer.attempts),
    ...section("stages", stages),
    ...section("passages", passages),
    ...groups.flatMap(([title, value]) => section(title, value)),
    ...section("prompt", prompt),
  ];
}

function section(title, value) {
  const empty = !value || (Array.isArray(value) && value.length === 0);
  return empty ? [] : [el("h3", { textContent: label(title) }), detail(value)];
}

function detail(value) {
  if (!Array.isArray(value)) return typeof value === "object" ? definitions(value) : el("pre", { textContent: value });
  if (value.every((item) => item && typeof item === "object" && typeof item.text !== "string")) return table(value);
  return el("div", {}, ...value.map((item) => el("pre", {
    textContent: item?.role ? `${item.role}\n${item.text}` : plain(item?.text ?? item),
  })));
}

function definitions(facts) {
  const known = Object.entries(facts).filter(([, value]) => value !== undefined && value !== null);
  return el("dl", {}, ...known.flatMap(([key, value]) => [
    el("dt", { textContent: label(key) }), el("dd", { textContent: plain(value) }),
  ]));
}

function table(rows) {
  const keys = [...new Set(rows.flatMap(Object.keys))];
  const cell = (tag, value, text) => el(tag, { textContent: text, className: typeof value === "number" ? "amount" : "" });
  return el("div", { className: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ...keys.map((key) => cell("th", rows[0][key], label(key))))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...keys.map((key) => cell("td", row[key], plain(row[key]))))))));
}

function label(key) {
  const words = key.replaceAll("_", " ");
  return words.length > 2 ? words.charAt(0).toUpperCase() + words.slice(1) : words;
}

function plain(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toFixed(3)));
  if (value === null || value === undefined) return "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
