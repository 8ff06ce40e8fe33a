// Talking to the server: requests, problems, and streams of events.

import { t } from "./words.js";

const TOKEN = "ragway.token";

/** The access token of this tab; empty where none is needed. */
export function token() {
  return sessionStorage.getItem(TOKEN) ?? "";
}

export function keepToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

/** Headers that say who asks. */
function credentials() {
  return token() ? { authorization: `Bearer ${token()}` } : {};
}

/** What went wrong, in the server's own words where it gave some (RFC 9457). */
export class Problem extends Error {
  constructor(title, detail, facts = {}) {
    super(detail);
    Object.assign(this, { title, detail, facts });
  }

  /** `header` reads a header of the response. */
  static from(body, status, header = () => null) {
    if (status === 401) document.dispatchEvent(new CustomEvent("unauthorized"));
    const wait = header("retry-after");
    return new Problem(
      status === 401 ? t("token-wanted") : (body.title ?? t("server-error")),
      status === 401 ? t("token-advice") : (body.detail ?? ""),
      {
        status: body.status ?? status,
        code: body.code,
        requestId: body.request_id ?? header("x-request-id"),
        wait: /^\d+$/.test(wait ?? "") ? Number(wait) : null,
      },
    );
  }
}

/** `fetch` that throws a `Problem` for everything but success and a stop by the user. */
export async function send(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { ...options, headers: { ...credentials(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(t("unreachable"), t("check-running"));
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw Problem.from(body, response.status, (name) => response.headers.get(name));
}

/** Posts JSON and returns the JSON of the answer. */
export async function post(address, body) {
  const headers = { "content-type": "application/json" };
  return (await send(address, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/** Posts a form; `sent` is told the share that is under way. Only XMLHttpRequest tells it. */
export function postForm(address, form, sent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address);
    request.responseType = "text";
    for (const [name, value] of Object.entries(credentials())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => event.lengthComputable && sent(event.loaded / event.total));
    request.addEventListener("error", () => reject(new Problem(t("unreachable"), t("check-running"))));
    request.addEventListener("load", () => {
      const body = parsed(request.responseText);
      if (request.status < 300 && body) resolve(body);
      else reject(Problem.from(body ?? {}, request.status, (name) => request.getResponseHeader(name)));
    });
    request.send(form);
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** The events of a `text/event-stream` body, parsed as the HTML standard says. */
export async function* serverEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let event = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await read(reader);
      if (done) return;
      buffer += value;
      // A carriage return at the very end may be half of a line break.
      const lines = buffer.split(/\r\n|\n|\r(?!$)/);
      buffer = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event: event || "message", data: data.join("\n") };
          event = "";
          data = [];
          continue;
        }
        const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (field === "event") event = content;
        if (field === "data") data.push(content);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(t("broke-off"), t("connection-lost"));
  }
}
