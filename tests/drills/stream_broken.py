"""One of three gateways behind nginx is killed (SIGKILL) while it is in the middle of streaming answers.

The language model, made up, says a sentence and waits until the kill is over. A stream of the killed gateway cannot
go on, and must not look like a whole one; nobody asks the model a second time for it; those of the others end as if
nothing had happened.
"""

import http.client
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from drill import ROOT, Deployment, connection, deployment, eventually, expect, kill, prepare

sys.path.append(str(ROOT / ".ci/browser"))
from server import Backend  # noqa: E402

STREAMS = 12
KILLED = 2
QUESTION = "What does it cost to take a bicycle?"
# Path, body, and what ends the stream of each kind.
KINDS = (
    ("/api/v1/ask", {"question": QUESTION, "stream": True}, b"event: done"),
    ("/v1/chat/completions", {"model": "slow", "messages": [{"role": "user", "content": QUESTION}], "stream": True}, b"[DONE]"),
)


class Slow(Backend):
    """Writes a sentence and the beginning of another, and the rest when `go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on, self.asked, self.lock = threading.Event(), 0, threading.Lock()

    def write(self, handler) -> None:
        with self.lock:
            self.asked += 1
        self.sentences = [" is all."]
        try:
            # A sentence is sent on when the next one begins: until then a reference may follow.
            self.send(handler, {"content": "A bicycle costs 3 euros each way [1]. That"}, None)
            while not self.go_on.wait(0.1):
                handler.wfile.write(b": waiting\n\n")
                handler.wfile.flush()
        except OSError:
            return
        super().write(handler)


@dataclass
class Stream:
    kind: int
    begun: bool = False
    # Its last event came.
    ended: bool = False
    # The connection told that something is missing.
    cut: bool = False

    def run(self, url: str) -> "Stream":
        path, body, last = KINDS[self.kind]
        server = connection(url)
        try:
            server.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = server.getresponse()
            expect(response.status == 200, f"{path}: {response.status}")
            text = b""
            while part := response.read1():
                text += part
                self.begun, self.ended = b"3 euros" in text, last in text
        except (OSError, http.client.HTTPException):
            # The last chunk of the body is missing.
            self.cut = True
        finally:
            server.close()
        return self


def main() -> None:
    model = Slow()
    with deployment(backends={"slow": model.url}) as served:
        model.go_on.set()
        for url in served.urls:
            prepare(url)
        front = served.nginx()
        model.go_on.clear()
        model.asked = 0
        streams = [Stream(number % len(KINDS)) for number in range(STREAMS)]
        with ThreadPoolExecutor(STREAMS) as clients:
            running = clients.map(lambda stream: stream.run(front.url), streams)
            eventually("all streams have begun", lambda: all(stream.begun for stream in streams))
            kill(served.gateways[KILLED])
            model.go_on.set()
            list(running)
        judge(served, streams, model)
        again = [Stream(stream.kind).run(front.url) for stream in streams if not stream.ended]
        expect(all(stream.ended for stream in again), "a question that was asked again was not answered")
        print(f"asked again: {len(again)}, each answered")


def judge(served: Deployment, streams: list[Stream], model: Slow) -> None:
    eventually("nginx has told of all", lambda: len(served_by(served)) >= STREAMS)
    held = sum(port == served.ports[KILLED] for port in served_by(served))
    broken = [stream for stream in streams if not stream.ended]
    print(f"{STREAMS} streams in their middle, {held} of them on the gateway that was killed")
    print(f"broken off: {len(broken)}, told by the connection: {sum(stream.cut for stream in broken)}; model asked {model.asked} times")
    expect(0 < held < STREAMS, "the drill proved nothing: all streams on one side")
    expect(len(broken) == held, "another stream than those of the killed gateway broke off")
    expect(all(stream.cut for stream in broken), "a stream that broke off looked like a whole one")
    expect(model.asked == STREAMS, "the model was asked twice for an answer")


def served_by(served: Deployment) -> list[int]:
    """The port of the gateway that each stream came from, as nginx says."""
    lines = (served.place / "nginx.log").read_text().splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return [int(line["upstream"].rsplit(":", 1)[1]) for line in told if line["path"] in (path for path, *_ in KINDS)]


main()
