// Talking to the server: requests, problems, and streams of events.

/** What went wrong, in the server's own words where it gave some (RFC 9457). */
export class Problem extends Error {
  constructor(title, detail, facts = {}) {
    super(detail);
    Object.assign(this, { title, detail, facts });
  }

  static from(body, response) {
    const wait = response?.headers.get("retry-after");
    return new Problem(body.title ?? "The server could not do this", body.detail ?? "", {
      status: body.status ?? response?.status,
      code: body.code,
      requestId: body.request_id ?? response?.headers.get("x-request-id"),
      wait: /^\d+$/.test(wait ?? "") ? Number(wait) : null,
    });
  }
}

/** `fetch` that throws a `Problem` for everything but success and a stop by the user. */
export async function send(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached", "Check that ragway is running, then try again.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw Problem.from(body ?? { title: `The server answered with status ${response.status}` }, response);
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
    throw new Problem("The answer broke off", "The connection to the server was lost. Ask again.");
  }
}
