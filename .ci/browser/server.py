"""ragway with an answer backend that says what it is told, for the time of a test."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gateway


class Backend:
    """An OpenAI-compatible server: `broken` fails, the other one writes `sentences`."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        # Where it waits after its first sentence; `left` is set when the client has gone meanwhile.
        self.waits = False
        self.left = threading.Event()
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if request["model"] == "broken":
                    self.send_error(500)
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                backend.write(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def write(self, handler: BaseHTTPRequestHandler) -> None:
        try:
            for sentence in self.sentences:
                self.send(handler, {"content": sentence}, None)
                for _ in range(600 if self.waits else 0):
                    # A comment of the protocol: it fails when nobody reads any more.
                    handler.wfile.write(b": waiting\n\n")
                    handler.wfile.flush()
                    time.sleep(0.1)
            self.send(handler, {}, "stop")
            usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
            self.chunk(handler, {"choices": [], "usage": usage})
            handler.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.left.set()

    def send(self, handler: BaseHTTPRequestHandler, delta: dict, reason: str | None) -> None:
        self.chunk(handler, {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    def chunk(self, handler: BaseHTTPRequestHandler, rest: dict) -> None:
        body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **rest}
        handler.wfile.write(f"data: {json.dumps(body)}\n\n".encode())
        handler.wfile.flush()


@contextmanager
def ragway(binary: Path, place: Path, backend: Backend):
    """The address of a running ragway; it is stopped at the end."""
    config = place / "models.toml"
    config.write_text(gateway.catalog({"broken": backend.url, "writer": backend.url}))
    with gateway.running(binary, config, place / "ragway.log", gateway.environment(place / "home")) as (_, url):
        yield url
