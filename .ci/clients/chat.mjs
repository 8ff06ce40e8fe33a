// Holds a conversation through OpenAI's client for Node, after chat.py, which stores the document.
//
//     node chat.mjs http://127.0.0.1:8080

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none" });
const messages = [{ role: "user", content: "What does it cost to take a bicycle?" }];
const answer = "A bicycle costs 3 euros each way. [1]";

const whole = await client.chat.completions.create({ model: "ragway", messages });
const { content, annotations } = whole.choices[0].message;
assert.equal(content, answer);
const { url, start_index: start, end_index: end } = annotations[0].url_citation;
assert.equal(url, "https://ferry.example/fares");
assert.equal(content.slice(start, end), "A bicycle costs 3 euros each way.");

let text = "";
const streamed = [];
let usage = null;
const options = { model: "ragway", messages, stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create(options)) {
  text += chunk.choices[0]?.delta.content ?? "";
  streamed.push(...(chunk.choices[0]?.delta.annotations ?? []));
  usage = chunk.usage ?? usage;
}
assert.equal(text, answer);
assert.deepEqual(streamed, annotations);
assert.equal(usage.total_tokens, 100);
console.log("ok  openai for Node, whole and streamed answers with annotations");

await assert.rejects(client.chat.completions.create({ model: "gpt-9", messages }), OpenAI.NotFoundError);
await assert.rejects(client.chat.completions.create({ model: "ragway", messages, n: 2 }), OpenAI.BadRequestError);
const passed = await client.chat.completions.create({ model: "remote", messages: [{ role: "user", content: "Hello" }] });
assert.equal(passed.choices[0].message.content, "upstream-model was asked");
console.log("ok  openai for Node, errors and pass-through");
