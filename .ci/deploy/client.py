"""What a client of the gateways does, with nothing retried that a client would have to retry itself."""

import http.client
import json
import ssl
import threading
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)


def connection(url: str, trust: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=60, context=trust)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)


def call(url: str, path: str, body: object = None, trust: ssl.SSLContext | None = None, **headers: str) -> Reply:
    """GET, or POST where there is a body: JSON, or bytes as they are."""
    with closing(connection(url, trust)) as server:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        server.request("GET" if data is None else "POST", path, data, {"content-type": "application/json"} | named)
        response = server.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def good(url: str, path: str, body: object = None, **more) -> dict:
    reply = call(url, path, body, **more)
    assert 200 <= reply.status < 300, f"{path}: {reply.status} {reply.body[:500]!r}"
    return reply.json()


def events(url: str, path: str, body: object):
    """Server-sent events as they come: name and data."""
    with closing(connection(url)) as server:
        server.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = server.getresponse()
        assert response.status == 200, (response.status, response.read()[:500])
        name = None
        while line := response.readline():
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


class Load:
    """Requests from several clients, until it is told to stop; what failed is kept."""

    def __init__(self, url: str, requests: list[tuple[str, object]], clients: int) -> None:
        self.url, self.requests = url, requests
        self.done, self.failed = 0, []
        self.ending, self.lock = threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=(n,)) for n in range(clients)]

    def work(self, number: int) -> None:
        turn = number
        while not self.ending.is_set():
            path, body = self.requests[turn % len(self.requests)]
            turn += 1
            try:
                reply = call(self.url, path, body(turn, number) if callable(body) else body)
                fault = None if reply.status < 300 else f"{path}: {reply.status} {reply.body[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                fault = f"{path}: {error!r}"
            with self.lock:
                self.done += 1
                self.failed += [fault] if fault else []

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()
