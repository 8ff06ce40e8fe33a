"""ragway with an answer backend that says what it is told, for the time of a test."""

import json
import os
import re
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Long enough to download models and PostgreSQL.
START_S = 600


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
    text = Path("models.toml").read_text()
    text, count = re.subn(r"(\[routes\.answer\]\nbackends = )\[.*?\]", r'\1["broken", "writer"]', text, flags=re.S)
    assert count == 1, "models.toml has no [routes.answer]"
    for name in ("broken", "writer"):
        text += f'\n[[llm]]\nname = "{name}"\nkind = "openai"\nbase_url = "{backend.url}"\n'
        text += f'model = "{name}"\ncontext_tokens = 4096\n'
    config.write_text(text)
    dropped = ("DATABASE_URL", "DB_HOST", "RAGWAY_PROMPTS", "OPENAI_API_KEY")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment |= {"RAGWAY_HOME": str((place / "home").absolute()), "NO_PROXY": "127.0.0.1"}
    log = place / "ragway.log"
    with log.open("w") as output:
        command = [str(binary), "--config", str(config), "serve", "--host", "127.0.0.1", "--port", "0"]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            yield address(process, log)
        finally:
            process.terminate()
            process.wait(60)


def address(process: subprocess.Popen, log: Path) -> str:
    for _ in range(START_S * 2):
        found = re.search(r"explore the API\s+(http://127\.0\.0\.1:\d+)/", log.read_text())
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise SystemExit(f"ragway did not start:\n{log.read_text()[-3000:]}")
