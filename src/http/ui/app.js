// The question page: asks, and shows the answer as it is written.

import { clearAnswer, showPiece, showSources, showWhole } from "./answer.js";
import { collection, loadCollections, startCollections } from "./collections.js";
import { startFeedback } from "./feedback.js";
import { $, el } from "./render.js";
import { Problem, send, serverEvents } from "./server.js";
import { startSettings } from "./settings.js";
import { offerUpload, startUpload } from "./upload.js";
import { t } from "./words.js";

// ── Asking ──────────────────────────────────────────────────────────────────

/** The question under way or answered last; events of an older one are ignored. */
let current = null;

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (question) ask(question);
});

$("question").addEventListener("keydown", (event) => {
  // Enter that ends the choice of a character is none.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

$("question").addEventListener("input", fitQuestion);
addEventListener("resize", fitQuestion);
$("stop").addEventListener("click", () => current?.controller.abort());

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") current?.controller.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.target.closest?.("#ask, #remark")) {
    $("ask").requestSubmit();
  }
  if (event.key === "/" && !event.target.closest?.("input, textarea, select")) {
    event.preventDefault();
    $("question").focus();
    $("question").select();
  }
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
  clearAnswer();
  setBusy(true, t("searching"));
  try {
    await stream(run, { question, collection: collection(), stream: true, explain: $("explain").checked });
    if (run === current && !run.done) throw new Problem(t("broke-off"), t("ask-again"));
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
      say(run.sources.length ? t("reading", run.sources.length) : t("searching"));
      break;
    case "delta":
      say(t("writing"));
      showPiece(run, data.text ?? "");
      break;
    case "citation":
      run.citations.push(data);
      showSources(run);
      break;
    case "done":
      run.done = true;
      showWhole(run, data);
      break;
    case "error":
      throw Problem.from(data);
  }
}

function fail(run, error) {
  if (error.name === "AbortError") {
    $("result").hidden = false;
    $("byline").textContent = t("stopped");
    return;
  }
  if (run.text) $("byline").textContent = t("incomplete");
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

// ── Problems ────────────────────────────────────────────────────────────────

function showProblem(error) {
  const problem = error instanceof Problem ? error : new Problem(t("page-error"), String(error));
  const { wait, status, code, requestId } = problem.facts;
  const facts = [status && t("status", status), code, requestId && t("request", requestId)].filter(Boolean);
  $("problem").replaceChildren(
    el("h2", { textContent: problem.title }),
    el("p", { textContent: problem.detail }),
    ...(wait ? [el("p", { textContent: t("try-again", wait) })] : []),
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
}

/** Questions to try where the demo's documents are; a place for documents where there are none. */
async function showStart() {
  const address = `api/v1/documents?limit=1&collection=${encodeURIComponent(collection())}`;
  const { total } = await (await send(address)).json();
  $("samples").hidden = total === 0 || collection() !== "default" || $("chips").childElementCount === 0;
  offerUpload(total === 0);
}

async function showHealth() {
  let state = "away";
  try {
    const response = await fetch("health");
    state = response.ok ? "healthy" : "unhealthy";
  } catch {
    // Not reachable.
  }
  $("health").dataset.state = state === "healthy" ? "good" : "bad";
  $("health").textContent = t(state);
}

async function start() {
  showHealth();
  // Each of these only adds to the page: it works without them.
  await Promise.allSettled([loadCollections(), showSamples()]);
  await showStart().catch(() => {});
}

startSettings();
startFeedback();
startUpload(collection, showStart);
startCollections(() => showStart().catch(() => {}));
document.addEventListener("language", start);
document.addEventListener("token", start);
$("health").textContent = t("checking-server");
fitQuestion();
start();
