"""A language model's server for the checks: it answers every question with the same sentence about the ferry.

A question that contains "refuse" is refused; with tools it calls the first one.
"""

import json
from http.server import BaseHTTPRequestHandler

SENTENCE = "A bicycle costs 3 euros each way [1]."
USAGE = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "refuse" in str(body["messages"][-1]["content"]):
            error = {"message": "refused by the upstream", "type": "invalid_request_error", "param": None, "code": 7}
            return self.send(400, "application/json", json.dumps({"error": error}))
        text = f"{body['model']} was asked" if "passages" not in str(body["messages"]) else SENTENCE
        message = {"role": "assistant", "content": text}
        reason = "stop"
        if body.get("tools"):
            call = {"name": body["tools"][0]["function"]["name"], "arguments": "{}"}
            message = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": call}],
            }
            reason = "tool_calls"
        common = {"id": "up-1", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
            whole = {**common, "object": "chat.completion", "choices": [choice], "usage": USAGE}
            return self.send(200, "application/json", json.dumps(whole))
        chunk = {**common, "object": "chat.completion.chunk"}
        events = [
            {**chunk, "choices": [{"index": 0, "delta": message, "finish_reason": ""}]},
            {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
        ]
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append({**chunk, "choices": [], "usage": USAGE})
        data = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        self.send(200, "text/event-stream", data + "data: [DONE]\n\n")

    def send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass
