// The question page: asks, shows the answer as it is written, and its sources.

import { $, card, count, el, explanation, withMarkers } from "./render.js";
import { Problem, send, serverEvents } from "./server.js";
import { offerUpload } from "./upload.js";

// ── Asking ──────────────────────────────────────────────────────────────────

/** The question under way or answered last; events of an older one are ignored. */
let current = null;

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (question) ask(question);
});

$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

$("question").addEventListener("input", fitQuestion);
addEventListener("resize", fitQuestion);
$("stop").addEventListener("click", () => current?.controller.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") current?.controller.abort();
});

function fitQuestion() {
  const box = $("question");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

async function ask(question) {
  current?.controller.abort();
  const run = { controller: new AbortController(), sources: [], citations: [], text: "", done: false };
  current = run;
  clearResult();
  setBusy(true, "Searching the documents …");
  try {
    await stream(run, { question, stream: true, explain: $("explain").checked });
    if (run === current && !run.done) throw new Problem("The answer broke off", "The connection ended early. Ask again.");
  } catch (error) {
    if (run === current) fail(run, error);
  } finally {
    if (run === current) {
      $("answer").setAttribute("aria-busy", "false");
      setBusy(false);
    }
  }
}

async function stream(run, body) {
  const response = await send("api/v1/ask", {
    method: "POST",
    headers: { "content-type": "application/json", accept: "text/event-stream, application/json" },
    body: JSON.stringify(body),
    signal: run.controller.signal,
  });
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
    return receive(run, "done", await response.json());
  }
  for await (const { event, data } of serverEvents(response.body)) {
    if (run !== current) return;
    receive(run, event, JSON.parse(data));
  }
}

function receive(run, event, data) {
  switch (event) {
    case "sources":
      run.sources = data.sources ?? [];
      say(run.sources.length ? `Reading ${count(run.sources.length, "passage")} …` : "Searching the documents …");
      break;
    case "delta":
      run.text += data.text ?? "";
      say("Writing …");
      showText(run, run.text, true);
      break;
    case "citation":
      run.citations.push(data);
      showSources(run);
      break;
    case "done":
      run.done = true;
      finish(run, data);
      break;
    case "error":
      throw Problem.from(data);
  }
}

function finish(run, answer) {
  run.text = answer.answer ?? run.text;
  run.citations = answer.citations ?? run.citations;
  const abstained = answer.answered === false || answer.method === "abstained";
  $("result").classList.toggle("abstained", abstained);
  showText(run, run.text || "The documents do not contain an answer to this question.", false);
  showVerdict(abstained ? "abstained" : answer.method);
  showByline(answer, abstained);
  showSources(run, true, abstained);
  showExplanation(answer);
}

function fail(run, error) {
  if (error.name === "AbortError") {
    if (run.text) $("byline").textContent = "Stopped before the answer was complete.";
    return;
  }
  if (run.text) $("byline").textContent = "This answer is incomplete.";
  showProblem(error);
  showHealth();
}

function setBusy(busy, message = "") {
  const stopHadFocus = document.activeElement === $("stop");
  const submitHadFocus = document.activeElement === $("submit");
  $("submit").hidden = busy;
  $("stop").hidden = !busy;
  $("progress").classList.toggle("busy", busy);
  say(message);
  if (busy && submitHadFocus) $("stop").focus();
  if (!busy && stopHadFocus) $("question").focus();
}

function say(message) {
  if ($("progress").textContent !== message) $("progress").textContent = message;
}

// ── The answer ──────────────────────────────────────────────────────────────

function clearResult() {
  for (const id of ["result", "problem", "verdict", "sources", "others", "how"]) $(id).hidden = true;
  for (const id of ["answer", "byline", "cited", "uncited", "how-body"]) $(id).replaceChildren();
  $("result").classList.remove("abstained");
  $("others").open = false;
}

/** Writes the answer; `[2]` becomes a link where there is a source 2. */
function showText(run, text, writing) {
  const known = new Set([...run.sources, ...run.citations].map((source) => source.n));
  const shown = writing ? withoutStrayMarkers(text, known) : text;
  const paragraphs = shown.trim().split(/\n{2,}/).map((paragraph) => el("p", {}, ...withMarkers(paragraph, known)));
  $("answer").setAttribute("aria-busy", String(writing));
  $("answer").replaceChildren(...paragraphs);
  $("result").hidden = false;
}

/** While the answer is unchecked: without unknown numbers and without a marker half written. */
function withoutStrayMarkers(text, known) {
  return text
    .replace(/\s*\[[\d,\s]*$/, "")
    .replace(/\s*\[(\d+)\]/g, (all, n) => (known.has(Number(n)) ? all : ""));
}

function showExplanation(answer) {
  $("how-body").replaceChildren(...explanation(answer));
  $("how").hidden = false;
  $("how").open = Boolean(answer.explain);
}

function showVerdict(method) {
  const words = { extractive: "Quoted from the documents", abstained: "Not in the documents" };
  $("verdict").hidden = !words[method];
  $("verdict").textContent = words[method] ?? "";
  $("verdict").dataset.method = method;
}

function showByline(answer, abstained) {
  const by = answer.method === "generated" && answer.model ? `Written by ${answer.model}` : null;
  const seconds = Number.isFinite(answer.elapsed_time) ? `${answer.elapsed_time.toFixed(2)} s` : null;
  const hint = abstained ? "Try other words, or add documents" : null;
  $("byline").textContent = [by, hint, seconds].filter(Boolean).join(" · ");
}

/** Cards of the cited passages; when all is known, also of those only read. */
function showSources(run, complete = false, abstained = false) {
  const cited = new Map();
  for (const citation of run.citations) {
    const passage = run.sources.find((source) => source.n === citation.n);
    const entry = cited.get(citation.n) ?? { ...passage, ...citation, quotes: [], text: passage?.text };
    if (citation.quote) entry.quotes.push(citation.quote);
    cited.set(citation.n, entry);
  }
  $("cited").replaceChildren(...[...cited.values()].map(card));
  $("sources").hidden = cited.size === 0;
  if (!complete) return;

  const rest = run.sources.filter((source) => !cited.has(source.n));
  $("uncited").replaceChildren(...rest.map((source) => card({ ...source, quotes: [] })));
  $("others").hidden = rest.length === 0;
  $("others-title").textContent = abstained
    ? `The closest ${rest.length === 1 ? "passage" : `${rest.length} passages`} found`
    : `${count(rest.length, "other passage")} read`;
}

// ── Problems ────────────────────────────────────────────────────────────────

function showProblem(error) {
  const problem = error instanceof Problem ? error : new Problem("Something went wrong on this page", String(error));
  const { wait, status, code, requestId } = problem.facts;
  const facts = [status && `Status ${status}`, code, requestId && `Request ${requestId}`].filter(Boolean);
  $("problem").replaceChildren(
    el("h2", { textContent: problem.title }),
    el("p", { textContent: problem.detail }),
    ...(wait ? [el("p", { textContent: `Try again in ${count(wait, "second")}.` })] : []),
    ...(facts.length ? [el("p", { className: "fine", textContent: facts.join(" · ") })] : []),
  );
  $("problem").hidden = false;
}

// ── When the page opens ─────────────────────────────────────────────────────

async function showSamples() {
  const { questions } = await (await send("ui/samples.json")).json();
  const chips = questions.map((question) => {
    const chip = el("button", { type: "button", className: "chip", textContent: question });
    chip.addEventListener("click", () => {
      $("question").value = question;
      fitQuestion();
      scrollTo({ top: 0 });
      ask(question);
    });
    return el("li", {}, chip);
  });
  $("chips").replaceChildren(...chips);
  $("samples").hidden = chips.length === 0;
}

async function offerUploadWhenEmpty() {
  const { documents, total } = await (await send("api/v1/documents?limit=1")).json();
  if (total > 0 || documents?.length !== 0) return;
  $("samples").hidden = true;
  offerUpload();
}

async function showHealth() {
  let status = null;
  try {
    const response = await fetch("health");
    const body = await response.json().catch(() => ({}));
    status = body.status ?? (response.ok ? "healthy" : "unhealthy");
    $("health").dataset.state = response.ok ? "good" : "bad";
  } catch {
    $("health").dataset.state = "bad";
  }
  $("health").textContent = status ? `Server: ${status}` : "Server: not reachable";
}

// Each of these only adds to the page: it works without them.
showHealth();
showSamples().catch(() => {}).finally(() => offerUploadWhenEmpty().catch(() => {}));
fitQuestion();
