"""500 connections that send a byte of a request a second, to a gateway and to nginx: others are still served."""

import socket
import threading
import time
from urllib.parse import urlsplit

from drill import Load, deployment, expect, percentile, prepare

CONNECTIONS, FOR_S = 500, 20
HEAD = b"POST /embed/text-embedding HTTP/1.1\r\nhost: drill\r\nx-slow: " + b"a" * 1000


class Slow:
    """Connections that never finish a request; those that the server closed are counted."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.sockets = [socket.create_connection((parts.hostname, parts.port), timeout=30) for _ in range(CONNECTIONS)]
        self.closed, self.ending = 0, threading.Event()
        self.thread = threading.Thread(target=self.trickle)

    def trickle(self) -> None:
        for byte in HEAD:
            for connection in list(self.sockets):
                try:
                    connection.send(bytes([byte]))
                except OSError:
                    self.sockets.remove(connection)
                    self.closed += 1
            if self.ending.wait(1):
                return

    def __enter__(self) -> "Slow":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join()
        for connection in self.sockets:
            connection.close()


def served_for(url: str, what: str) -> Load:
    with Load(url, clients=2, kinds=("embed", "search")) as load:
        time.sleep(FOR_S)
    load.report(what)
    times = [outcome.seconds for outcome in load.outcomes]
    print(f"    median {percentile(times, 0.5) * 1000:.0f} ms, P95 {percentile(times, 0.95) * 1000:.0f} ms")
    return load


def main() -> None:
    with deployment(gateways=1) as served:
        prepare(served.urls[0])
        served.ports, served.urls = served.ports * 3, served.urls * 3
        front = served.nginx()
        for name, url in (("gateway", served.urls[0]), ("nginx", front.url)):
            served_for(url, f"{name}, alone")
            with Slow(url) as slow:
                load = served_for(url, f"{name}, with {CONNECTIONS} slow connections")
            print(f"    slow connections that the server closed within {FOR_S} s: {slow.closed}")
            expect(load.outcomes and not load.failures(), "other clients were not served")


main()
